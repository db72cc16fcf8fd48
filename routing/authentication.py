"""The first stage: whose key was sent, and whether it may be used here. No query for a key the worker knows."""

import logging
from collections.abc import Iterable, Mapping

from billing.ledger import clean_text
from routing.call import Call
from routing.gateway import Gateway
from routing.trace import Trace
from teams.errors import (
    application_unknown,
    key_address,
    key_conflict,
    key_invalid,
    key_missing,
    key_scope,
)
from teams.key_holder import KeyHolder, KeyRules
from teams.key_rules import parse_address
from teams.keys import is_well_formed

logger = logging.getLogger(__name__)

_PLAIN_HEADERS = ("x-api-key", "api-key")  # Anthropic's and Azure OpenAI's form
_KEY_HEADERS = frozenset({b"authorization", *(name.encode() for name in _PLAIN_HEADERS)})


def refuse_keyless(headers: Mapping[str, str]) -> None:
    """Refuse, without any look-up, who cannot have a key: before a large body is read. Raises GatewayError."""
    if not is_well_formed(presented_key(headers)):
        raise key_invalid()


def refuse_repeated_keys(raw: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse a request that has one of the key's headers twice with different values: of a repeated header the
    pipeline sees only the last. Raises GatewayError."""
    seen: dict[bytes, bytes] = {}
    for name, value in raw:
        if name in _KEY_HEADERS and seen.setdefault(name, value) != value:
            raise key_conflict()


def presented_key(headers: Mapping[str, str]) -> str:
    """The key in Authorization (Bearer), x-api-key or api-key. Refuses with 401 when there is none, or when
    there are several that differ."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    key = key.strip() if scheme.lower() == "bearer" else ""
    for name in _PLAIN_HEADERS:
        if other := headers.get(name, "").strip():
            if key and other != key:
                raise key_conflict()
            key = other
    if not key:
        raise key_missing()
    return key


async def authenticate(gateway: Gateway, call: Call, trace: Trace) -> KeyHolder:
    """The holder of the presented key, whose call this is from now on, for the application it names.

    Refuses with 401 or 403 by the key's own rules; with 503 when a key cannot be looked up.
    """
    holder = await gateway.keys.find(presented_key(call.headers))
    if holder is None:
        raise key_invalid()
    trace.caller = holder
    trace.application_id, trace.application = holder.application_id, holder.application
    if not holder.is_usable_at(trace.admitted_at):
        raise key_invalid()
    if holder.rules is not None:
        _check_rules(holder.rules, call, trace)
    if name := call.headers.get("x-app-name", "").strip():
        trace.application_id, trace.application = _find_application(holder, name)
    gateway.key_uses.note(holder.key_id, trace.admitted_at, call.address)
    return holder


async def authenticate_again(gateway: Gateway, call: Call, trace: Trace) -> KeyHolder:
    """The holder of the key as it is now, for a call that has waited; the call stays whose it was when it came.

    Refuses as `authenticate` does.
    """
    holder = await gateway.keys.find(presented_key(call.headers))
    if holder is None or not holder.is_usable_at(trace.admitted_at):
        raise key_invalid()
    if holder.rules is not None:
        _check_rules(holder.rules, call, trace)
    return holder


def _check_rules(rules: KeyRules, call: Call, trace: Trace) -> None:
    if not rules.allow_address(parse_address(call.address)):
        logger.warning(
            "A key was refused at the address %s, which is not in its ranges.",
            clean_text(call.address),
            extra={"request_id": trace.id},
        )
        raise key_address()
    if not rules.allow_endpoint(trace.operation):
        raise key_scope(trace.operation)


def _find_application(holder: KeyHolder, name: str) -> tuple[int, str]:
    """Any application of the key's team may be named, also by a key that belongs to one of them."""
    application_id = holder.owner.applications.get(name)
    if application_id is None:
        raise application_unknown(clean_text(name, 63))
    return application_id, name
