"""How large a request may be: past a bound it is refused before anything is spent."""

from dataclasses import dataclass

from teams.errors import GatewayError, field_invalid


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most of each; the settings GATEWAY_MAX_... of the same names."""

    messages: int
    tools: int
    choices: int
    inputs: int
    tokens: int


def beyond(field: str, what: str, most: int) -> GatewayError:
    """The refusal of a request that has more than `most` of something."""
    return field_invalid(field, f"{field!r} is beyond the bound: {what} at most {most}.")


def check_max_tokens(field: str, value: int | None, most: int | None) -> None:
    """Refuse an answer that is asked to be longer than `most` tokens. Raises GatewayError."""
    if value is not None and most is not None and value > most:
        raise beyond(field, "it may be", most)
