"""GatewayError as the OpenAI dialect words it."""

import msgspec

from routing.call import Reply
from teams.errors import GatewayError


def error_body(error: GatewayError) -> bytes:
    """`{"error": {"message", "type", "param", "code"}}`, all four always present."""
    return msgspec.json.encode(
        {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
    )


def render_error(error: GatewayError) -> Reply:
    """The whole answer: status, body, and x-gateway-reason for machines."""
    return Reply(error.status, error_body(error), {"x-gateway-reason": error.reason, **error.headers})
