"""GatewayError as the callers' dialects word it."""

from typing import Protocol

import msgspec

from routing.call import Reply
from teams.errors import GatewayError


class Wire(Protocol):
    """How an API words what is no answer. `keep_alive`: the piece of a stream that only says that it goes on;
    `id_header`: where its clients look for the id of a request."""

    keep_alive: bytes
    id_header: str

    def error_body(self, error: GatewayError, request_id: str) -> bytes:
        """The body of a refusal or failure."""
        ...

    def error_frame(self, error: GatewayError, request_id: str) -> bytes:
        """The last frame of a stream that failed."""
        ...


class _OpenAI:
    """`{"error": {"message", "type", "param", "code"}}`, all four always present."""

    keep_alive = b": keep-alive\n\n"
    id_header = "x-request-id"

    def error_body(self, error: GatewayError, request_id: str) -> bytes:
        """See Wire."""
        return msgspec.json.encode(
            {
                "error": {
                    "message": error.message,
                    "type": error.type,
                    "param": error.param,
                    "code": error.code,
                }
            }
        )

    def error_frame(self, error: GatewayError, request_id: str) -> bytes:
        """See Wire."""
        return b"data: " + self.error_body(error, request_id) + b"\n\n"


class _Anthropic:
    """`{"type": "error", "error": {"type", "message"}, "request_id"}`; the type follows from the status."""

    keep_alive = b'event: ping\ndata: {"type":"ping"}\n\n'
    id_header = "request-id"

    def error_body(self, error: GatewayError, request_id: str) -> bytes:
        """See Wire."""
        kind = _ANTHROPIC_TYPES.get(error.status)
        if kind is None:
            kind = "invalid_request_error" if error.status < 500 else "api_error"
        detail: dict[str, object] = {"type": kind, "message": error.message}
        if error.code:
            detail["details"] = {"error_code": error.code}
        return msgspec.json.encode({"type": "error", "error": detail, "request_id": request_id})

    def error_frame(self, error: GatewayError, request_id: str) -> bytes:
        """See Wire."""
        return b"event: error\ndata: " + self.error_body(error, request_id) + b"\n\n"


_ANTHROPIC_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class _Responses(_OpenAI):
    """OpenAI's newer API: plain errors as ever, those of a stream as an event of its own."""

    def error_frame(self, error: GatewayError, request_id: str) -> bytes:
        """See Wire."""
        return responses_error(error, 0)


def responses_error(error: GatewayError, number: int) -> bytes:
    """The event `number` of a stream, which ends it."""
    event = {
        "type": "error",
        "sequence_number": number,
        "code": error.code or error.type,
        "message": error.message,
        "param": error.param,
    }
    return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"


OPENAI: Wire = _OpenAI()
RESPONSES: Wire = _Responses()
ANTHROPIC: Wire = _Anthropic()


def render_error(wire: Wire, error: GatewayError, request_id: str) -> Reply:
    """The whole answer: status, body, and x-gateway-reason for machines."""
    headers = {"x-gateway-reason": error.reason, **error.headers}
    return Reply(error.status, wire.error_body(error, request_id), headers)
