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


OPENAI: Wire = _OpenAI()


def render_error(wire: Wire, error: GatewayError, request_id: str) -> Reply:
    """The whole answer: status, body, and x-gateway-reason for machines."""
    headers = {"x-gateway-reason": error.reason, **error.headers}
    return Reply(error.status, wire.error_body(error, request_id), headers)
