"""The one family of errors a caller can see. Which of them become which body is the dialect's business."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"


@dataclass(slots=True, eq=False)
class GatewayError(Exception):
    """A refusal or failure with everything the answer needs.

    `reason` is our machine-readable id (the x-gateway-reason header and the ledger's `reason`); `type`, `code`
    and `param` are the provider's words. `message` is shown to the caller: it never holds an address, a
    credential or a trace. `may_have_cost`: the backend may bill us for the call although it failed.
    `backend_status`: what the backend answered, 0 for nothing; `back_in_s`: when it says that it takes calls again.
    """

    status: int
    reason: str
    message: str
    type: str = INVALID_REQUEST
    code: str | None = None
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    may_have_cost: bool = False
    backend_status: int = 0
    back_in_s: float | None = None

    def __str__(self) -> str:
        return f"{self.status} {self.reason}: {self.message}"


def unavailable(reason: str, message: str, headers: dict[str, str] | None = None) -> GatewayError:
    """503, with the type and code that clients know as "try again later"."""
    return GatewayError(
        503,
        reason,
        message,
        type="service_unavailable_error",
        code="server_is_overloaded",
        headers=headers or {},
    )


def key_missing() -> GatewayError:
    """No credential was sent."""
    return GatewayError(
        401,
        "key_missing",
        "No API key was sent. Put it in the header: Authorization: Bearer YOUR_KEY.",
        code="invalid_api_key",
    )


def key_conflict() -> GatewayError:
    """Several credentials that differ: we do not choose whose request it is."""
    return GatewayError(
        401,
        "key_conflict",
        "Different API keys were sent in Authorization, x-api-key or api-key. Send one.",
        code="invalid_api_key",
    )


def key_invalid() -> GatewayError:
    """Malformed, unknown, expired, revoked, paused, or of an inactive team: one answer for all, on purpose."""
    return GatewayError(
        401,
        "key_invalid",
        "This API key is not valid. Check it, or ask your team for a new one.",
        code="invalid_api_key",
    )


def key_address() -> GatewayError:
    """The key is valid, but not where the call comes from."""
    return GatewayError(
        401,
        "key_address",
        "This API key may not be used from your address. Ask your team to add it to the key's IP ranges.",
        code="ip_not_authorized",
    )


def key_scope(endpoint: str) -> GatewayError:
    """The key is valid, but not for this endpoint."""
    return GatewayError(
        403,
        "key_scope",
        f"This API key's scopes do not include {endpoint!r}. Ask your team for another key.",
        code="insufficient_permissions",
    )


def key_model(name: str) -> GatewayError:
    """Granted to the team, but not among the models of this key."""
    return GatewayError(
        403,
        "key_model",
        f"This API key may not use the model {name!r}; other keys of your team may.",
        code="model_not_allowed",
        param="model",
    )


def application_unknown(name: str) -> GatewayError:
    """X-App-Name names no application of the key's team: none at all, or another team's."""
    return GatewayError(
        403,
        "application_unknown",
        f"Your team has no application {name!r} (header X-App-Name).",
        code="application_not_allowed",
    )


def path_unknown(method: str, path: str) -> GatewayError:
    """No such route under /v1."""
    return GatewayError(404, "path_unknown", f"Unknown request URL: {method} {path}.", code="unknown_url")


def method_not_allowed(method: str, allowed: list[str]) -> GatewayError:
    """The route exists, the method does not."""
    return GatewayError(
        405,
        "method_not_allowed",
        f"{method} is not allowed here; use {' or '.join(allowed)}.",
        code="method_not_allowed",
        headers={"allow": ", ".join(allowed)},
    )


def body_too_large(limit_bytes: int) -> GatewayError:
    """The body passes the bound; nothing of it was read further."""
    return GatewayError(
        413,
        "body_too_large",
        f"The request body is larger than {limit_bytes} bytes.",
        code="request_too_large",
    )


def headers_too_large(limit_bytes: int) -> GatewayError:
    """The headers pass the bound."""
    return GatewayError(
        431,
        "headers_too_large",
        f"The headers are larger than {limit_bytes} bytes.",
        code="request_too_large",
    )


def body_timeout() -> GatewayError:
    """The caller did not send its body in time."""
    return GatewayError(
        408, "body_timeout", "The request body did not arrive in time.", code="request_timeout"
    )


def body_invalid_json() -> GatewayError:
    """The body does not parse."""
    return GatewayError(
        400, "body_invalid_json", "The request body is not valid JSON in UTF-8.", code="invalid_json"
    )


def field_invalid(param: str | None, message: str) -> GatewayError:
    """A field is missing, of the wrong type, or out of bounds."""
    return GatewayError(400, "field_invalid", message, param=param, code="invalid_value")


def guard_blocked(guard: str, types: Iterable[str], side: str) -> GatewayError:
    """The request or the answer, `side`, has what the team's policy does not let pass. Kinds are told, values never."""
    kinds = ", ".join(sorted(set(types)))
    if side == "answer":
        message = f"The model's answer was stopped by your team's policy: {kinds}."
    else:
        message = (
            f"The request holds {kinds}: your team's policy does not let that pass to a model. "
            "Take it out and send the request again."
        )
    return GatewayError(400, f"guard_{guard}", message, code="guard_blocked", may_have_cost=side == "answer")


def guards_unavailable() -> GatewayError:
    """A request or an answer cannot be looked through, and the team's policy does not let it pass then."""
    error = unavailable(
        "guard_unavailable",
        "The call cannot be looked through now, as your team's policy wants. Try again.",
        {"retry-after": "1"},
    )
    error.may_have_cost = True
    return error


def parameter_unsupported(param: str, message: str) -> GatewayError:
    """Nothing that serves the model has a place for it, and without it the request would be another one."""
    return GatewayError(400, "parameter_unsupported", message, code="unsupported_parameter", param=param)


def endpoint_unsupported(model: str, operation: str) -> GatewayError:
    """The model is served, but by nothing that has such an endpoint."""
    message = f"The model {model!r} has no endpoint for {operation}."
    return GatewayError(400, "endpoint_unsupported", message, code="unsupported_endpoint", param="model")


def tags_missing(name: str, tags: list[str]) -> GatewayError:
    """Calls of this team, application or key may only go to backends that have all of these tags."""
    message = (
        f"Your calls require {', '.join(tags)}, and nothing that serves the model {name!r} has all of it."
    )
    return GatewayError(403, "tags_missing", message, code="compliance_required", param="model")


def address_refused(param: str) -> GatewayError:
    """The caller names an address or a key of a backend: those are the gateway's to choose."""
    return GatewayError(
        400,
        "address_refused",
        f"{param!r} is not accepted: the gateway chooses the backend and its credential.",
        param=param,
        code="unsupported_parameter",
    )


def model_unknown(name: str) -> GatewayError:
    """Not in the catalogue."""
    return GatewayError(
        404,
        "model_unknown",
        f"The model {name!r} does not exist in this gateway's catalogue.",
        code="model_not_found",
        param="model",
    )


def model_not_granted(name: str) -> GatewayError:
    """In the catalogue, but not for this team."""
    return GatewayError(
        403,
        "model_not_granted",
        f"Your team has not been granted the model {name!r}. Ask an administrator.",
        code="model_not_allowed",
        param="model",
    )


def model_unavailable(name: str) -> GatewayError:
    """Granted, but nothing can serve it now."""
    return unavailable("no_backend", f"No backend is available for the model {name!r}.", {"retry-after": "5"})


def backends_away(name: str, back_in_s: float) -> GatewayError:
    """Every backend of it failed lately and is left alone for a while."""
    return unavailable(
        "backends_away",
        f"Every backend of the model {name!r} failed lately and is left alone for a moment.",
        {"retry-after": str(max(1, math.ceil(back_in_s)))},
    )


def backends_busy(name: str) -> GatewayError:
    """Every backend of the model has as many calls or tokens as it takes; what is left is for higher priorities."""
    message = f"All backends of the model {name!r} are as busy as they may be; try again shortly."
    return unavailable("backends_busy", message, {"retry-after": "1"})


def model_draining(name: str) -> GatewayError:
    """Granted, but every backend of it is being drained by an administrator."""
    return unavailable(
        "backends_draining",
        f"Every backend of the model {name!r} is being drained for maintenance. Try again later.",
        {"retry-after": "60", "x-should-retry": "false"},
    )


def model_unpriced(name: str) -> GatewayError:
    """A call that could not be priced is not made: it would cost money nobody accounts for."""
    return GatewayError(
        503,
        "model_unpriced",
        f"The model {name!r} has no price in force. Ask an administrator to add one.",
        type=SERVER_ERROR,
        code="model_unpriced",
        headers={"x-should-retry": "false"},
    )


def idempotency_key_invalid(longest: int) -> GatewayError:
    """The header is there and holds no key."""
    return GatewayError(
        400,
        "idempotency_key_invalid",
        f"Idempotency-Key must be 1 to {longest} printable ASCII characters.",
        code="invalid_value",
    )


def idempotency_streamed() -> GatewayError:
    """What a stream tells is not kept."""
    return GatewayError(
        400,
        "idempotency_streamed",
        "Idempotency-Key is for plain calls: a stream is not kept. Send it without the header.",
        code="unsupported_parameter",
        param="stream",
    )


def idempotency_key_reused() -> GatewayError:
    """The key was used for another call."""
    return GatewayError(
        422,
        "idempotency_key_reused",
        "This Idempotency-Key was used within the last 24 hours with another body or path.",
        code="idempotency_key_reused",
    )


def idempotency_in_progress() -> GatewayError:
    """The first call of this key goes on for longer than we let a second one wait."""
    return GatewayError(
        409,
        "idempotency_in_progress",
        "The first call with this Idempotency-Key goes on. Send it again later for its answer.",
        code="idempotency_in_progress",
        headers={"retry-after": "5"},
    )


def idempotency_answer_gone() -> GatewayError:
    """The call was made, but its answer was not kept."""
    return GatewayError(
        409,
        "idempotency_answer_gone",
        "The call with this Idempotency-Key was made, but its answer was not kept; it is not made again.",
        code="idempotency_answer_gone",
        headers={"x-should-retry": "false"},
    )


def idempotency_unavailable() -> GatewayError:
    """Whether the call was made before cannot be looked up."""
    return unavailable(
        "idempotency_unavailable",
        "Idempotency keys cannot be looked up now. Try again, or send the call without the header.",
        {"retry-after": "1"},
    )


def ledger_unavailable() -> GatewayError:
    """The spool has no room to record another call, so no call is made."""
    return unavailable(
        "ledger_unavailable",
        "The gateway cannot record usage now, so it makes no calls. Operators have been told.",
        {"retry-after": "5"},
    )


def database_unavailable() -> GatewayError:
    """A key this worker has not seen yet cannot be looked up."""
    return unavailable(
        "key_lookup_unavailable",
        "API keys cannot be looked up at the moment. Try again shortly.",
        {"retry-after": "2"},
    )


def gateway_stopped() -> GatewayError:
    """The gateway shut down before the answer was complete."""
    error = unavailable("gateway_stopped", "The gateway is restarting; try again.")
    error.may_have_cost = True
    return error


def internal_error() -> GatewayError:
    """Our own bug; the log line with the request id has the rest."""
    return GatewayError(
        500,
        "internal_error",
        "The gateway failed to handle this request.",
        type=SERVER_ERROR,
        code="server_error",
        may_have_cost=True,
    )
