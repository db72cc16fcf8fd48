"""What the endpoints share in reading a body: JSON, the common fields, and what no caller may name."""

from typing import Any, TypeVar

import msgspec

from billing.ledger import clean_text
from routing.endpoints.base import decode_fields
from teams.errors import GatewayError, address_refused, body_invalid_json, field_invalid


class StreamOptions(msgspec.Struct):
    """Options of a streamed answer."""

    include_usage: bool | None = None


class Checked(msgspec.Struct):
    """The fields whose type decides what we do; the backend judges the rest."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    safety_identifier: str | None = None


Kind = TypeVar("Kind", bound=Checked)


def read_json(body: bytes, decoder: "msgspec.json.Decoder[Kind]") -> tuple[Kind, dict[str, msgspec.Raw]]:
    """The checked fields, and all fields as they came. Raises GatewayError: invalid JSON, or a field that is
    missing or of the wrong type, or one that names an address."""
    try:
        body.decode()  # raw fields are passed on unread, so their UTF-8 is checked here
        checked, fields = decoder.decode(body), decode_fields(body)
    except msgspec.ValidationError as error:
        raise _explain(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise body_invalid_json() from None
    _refuse_addresses(fields)
    return checked, fields


def model_of(checked: Checked, path_model: str | None) -> str:
    """The model asked for: the path's, as the Azure form has it, else the body's. Raises GatewayError."""
    if model := path_model or checked.model:
        return model
    if checked.model is None:
        raise field_invalid("model", "Missing required field: 'model'.")
    raise field_invalid("model", "'model' must not be empty.")


def end_user_of(checked: Checked, fields: dict[str, msgspec.Raw]) -> str:
    """The application's own user, where the body names one."""
    if user := checked.safety_identifier or checked.user:
        return user
    if "metadata" in fields:
        metadata = _decode(fields["metadata"])
        user_id = metadata.get("user_id") if isinstance(metadata, dict) else None
        return user_id if isinstance(user_id, str) else ""
    return ""


def is_null(fields: dict[str, msgspec.Raw], name: str) -> bool:
    """Whether a field is absent or null."""
    return name not in fields or bytes(fields[name]) == b"null"


def _explain(error: msgspec.ValidationError) -> GatewayError:
    """msgspec says `Expected ..., got ... - at `$.messages[0].role``; the path becomes `param`."""
    problem, _, place = str(error).partition(" - at ")
    path = place.strip("`").removeprefix("$").removeprefix(".")
    if not path and "required field" in problem:
        path = problem.rsplit("`", 2)[-2]
        return field_invalid(path, f"Missing required field: {path!r}.")
    where = f"in {path!r}" if path else "in the body"
    return field_invalid(path or None, f"Invalid value {where}: {problem[:1].lower()}{problem[1:]}.")


# Some servers take the address of their backend from the request: a caller who could name one would be sent our
# credential. In what the caller writes for the model these are ordinary names.
_ADDRESSES = frozenset({"api_base", "base_url", "api_key"})
_CONTENT = frozenset(
    {
        "messages", "prompt", "suffix", "input", "system", "instructions", "stop_sequences",
        "tools", "tool_choice", "functions", "function_call",
        "response_format", "text", "output_config", "prediction", "stop", "logit_bias", "model", "stream",
        "temperature",
        "max_tokens", "max_completion_tokens", "n", "user", "seed", "top_p",
    }
)  # fmt: skip


def _refuse_addresses(fields: dict[str, msgspec.Raw]) -> None:
    """Refuse names of addresses and keys at the top, in `metadata` and in objects we do not know."""
    for name in fields.keys() - _CONTENT:
        if name in _ADDRESSES:
            raise address_refused(name)
        rest = [_decode(fields[name])] if bytes(fields[name])[:1] in b"{[" else []
        while rest:  # no recursion: a caller may nest as deep as the parser allows
            item = rest.pop()
            if isinstance(item, dict):
                if named := _ADDRESSES & item.keys():
                    raise address_refused(f"{clean_text(name, 80)}.{min(named)}")
                rest.extend(item.values())
            elif isinstance(item, list):
                rest.extend(item)


def _decode(raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        raise body_invalid_json() from None
