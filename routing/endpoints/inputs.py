"""Inputs as completions and embeddings take them: a text, texts, tokens, or lists of tokens."""

from typing import Any

import msgspec

from billing.estimate import Extent
from routing.endpoints.base import Prompt
from routing.endpoints.bounds import beyond
from teams.errors import field_invalid

MOST_TOKEN_NUMBER = 2**31 - 1


def read_inputs(field: str, raw: msgspec.Raw, most: int) -> Any:
    """The decoded input. Raises GatewayError: another type, a mixture, nothing at all, or more than `most`."""
    try:
        given = msgspec.json.decode(raw)
    except msgspec.DecodeError:  # a number that no float can hold
        raise field_invalid(field, f"{field!r} holds a number that is out of range.") from None
    if isinstance(given, str):
        if not given:
            raise field_invalid(field, f"{field!r} must not be empty.")
        return given
    if not isinstance(given, list) or not _is_of_one_kind(given):
        raise field_invalid(
            field,
            f"{field!r} must be a text, a list of texts, a list of tokens or a list of lists of tokens.",
        )
    if not given or not all(item or item == 0 for item in given):
        raise field_invalid(field, f"{field!r} must not be empty, nor may one of its items.")
    if not isinstance(given[0], int) and len(given) > most:
        raise beyond(field, "there may be", most)
    return given


def _is_of_one_kind(given: list[Any]) -> bool:
    return (
        all(isinstance(item, str) for item in given)
        or _are_tokens(given)
        or all(isinstance(item, list) and _are_tokens(item) for item in given)
    )


def _are_tokens(items: list[Any]) -> bool:
    return all(type(item) is int and 0 <= item <= MOST_TOKEN_NUMBER for item in items)


def count_inputs(given: Any) -> int:
    """How many inputs there are: a text or a list of tokens is one."""
    return 1 if isinstance(given, str) or isinstance(given[0], int) else len(given)


def extent_of(raw: msgspec.Raw, suffix: msgspec.Raw | bytes = b"") -> Extent:
    """How large a checked input is: texts by their bytes as sent, quotes standing for the marks that some models
    put around a text; tokens exactly."""
    sent = bytes(raw)
    text_bytes = 0 if bytes(suffix) == b"null" else len(bytes(suffix))
    if b'"' in sent[:64]:
        return Extent(text_bytes=text_bytes + len(sent))
    prompt = prompt_of(msgspec.json.decode(sent))
    return Extent(text_bytes=text_bytes + (len(sent) if prompt.texts else 0), tokens=prompt.tokens)


def prompt_of(given: Any) -> Prompt:
    """What a count covers: texts are counted, tokens are what they are."""
    if isinstance(given, str):
        return Prompt([given])
    if isinstance(given[0], str):
        return Prompt(given)
    return Prompt([], len(given) if isinstance(given[0], int) else sum(map(len, given)))
