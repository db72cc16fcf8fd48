"""What the pipeline asks of a provider, and the table that turns its failures into ours."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from billing.ledger import clean_text
from routing.snapshot import Target
from teams.errors import SERVER_ERROR, GatewayError, unavailable


class UpstreamStream(Protocol):
    """An answer under way."""

    def listen(self, notify: Callable[[], object]) -> None:
        """From now on call `notify` whenever there is something new to take."""
        ...

    def take(self) -> bytes | None:
        """What has arrived: None when nothing has yet, b"" at the end. Raises GatewayError when the connection
        broke, once everything that came before was taken."""
        ...

    def close(self) -> None:
        """Be done with it, at its end or before; safe to call twice."""
        ...


class Provider(Protocol):
    """Calls backends of one form. Every method raises GatewayError, never a transport's own exception.

    `path` is the endpoint's, below the backend's base URL: `chat/completions`.
    """

    async def complete(self, target: Target, path: str, body: bytes, request_id: str) -> bytes:
        """POST a plain request and return the body of its 200."""
        ...

    async def open_stream(
        self, target: Target, path: str, body: bytes, request_id: str, on_sent: Callable[[], None]
    ) -> UpstreamStream:
        """POST a streamed request; returns once the backend answered 200 with an event stream.

        Calls `on_sent` when the request goes out on a connection: from then on it may cost.
        """
        ...

    async def check(self, target: Target, within_s: float) -> None:
        """Ask for what costs nothing; returns when the backend answered 200 in time."""
        ...


def _failure(status: int, reason: str, message: str, *, may_have_cost: bool = False) -> GatewayError:
    code = reason if reason in {"backend_unreachable", "backend_timeout"} else "backend_error"
    return GatewayError(status, reason, message, type=SERVER_ERROR, code=code, may_have_cost=may_have_cost)


def backend_unreachable() -> GatewayError:
    """No connection could be made: nothing was spent."""
    return _failure(502, "backend_unreachable", "The backend could not be reached.")


def backend_not_signed_in() -> GatewayError:
    """There is no access token for the backend: our fault, and nothing was spent."""
    message = "The gateway could not sign in at the backend; operators can see why."
    return _failure(502, "backend_misconfigured", message)


def backend_timeout(what: str) -> GatewayError:
    """The backend did not answer in time; it may have worked, and bill, all the same."""
    return _failure(504, "backend_timeout", f"The backend took too long ({what}).", may_have_cost=True)


def backend_broke() -> GatewayError:
    """The connection ended after the request was sent, before or in the middle of the answer."""
    return _failure(502, "backend_broke", "The backend's answer broke off.", may_have_cost=True)


def backend_bad_answer() -> GatewayError:
    """A 200 that is not an answer."""
    message = "The backend sent something that is not a valid answer."
    return _failure(502, "backend_bad_answer", message, may_have_cost=True)


_FAULTS = frozenset(
    {
        *("backend_unreachable", "backend_timeout", "backend_broke", "backend_bad_answer", "backend_error"),
        *("backend_throttled", "backend_overloaded", "backend_misconfigured"),
    }
)


def is_backends_fault(error: GatewayError) -> bool:
    """Whether another backend may serve the same request; what one finds invalid the others would too."""
    return error.reason in _FAULTS


@dataclass(frozen=True, slots=True)
class Refusal:
    """A status other than 200, with the words of its body; none of them is trusted."""

    status: int
    message: str | None = None
    param: str | None = None
    code: str | None = None
    retry_after: str | None = None
    back_in_s: float | None = None


def backend_refused(target: Target, refusal: Refusal) -> GatewayError:
    """The caller's error for a refusal of the backend, which keeps what the backend said."""
    error = _as_error(target, refusal)
    error.backend_status, error.back_in_s = refusal.status, refusal.back_in_s
    return error


def _as_error(target: Target, refusal: Refusal) -> GatewayError:
    """See backend_refused.

    What the backend finds wrong with the request is the caller's to mend: same status, scrubbed words. A
    backend that does not accept our credential or lacks the deployment is our fault: 502, never 401 or 404.
    """
    headers = {}
    if refusal.retry_after and _RETRY_AFTER.match(refusal.retry_after):
        headers = {"retry-after": refusal.retry_after}
    match refusal.status:
        case 400 | 413 | 422:
            return GatewayError(
                refusal.status,
                "backend_rejected",
                scrub(refusal.message, target) or "The backend finds this request invalid.",
                param=_word(refusal.param),
                code="context_length_exceeded" if _is_too_long(refusal) else _word(refusal.code),
            )
        case 429:
            message = "The backend is throttling; try again shortly."
            return GatewayError(
                429, "backend_throttled", message, "rate_limit_error", "rate_limit_exceeded", headers=headers
            )
        case 503 | 529:
            message = "The backend is overloaded; try again shortly."
            return unavailable("backend_overloaded", message, headers)
        case 401 | 402 | 403 | 404 | 407:
            message = "The backend does not accept the gateway's configuration; operators can see why."
            return _failure(502, "backend_misconfigured", message)
    return _failure(502, "backend_error", f"The backend failed (HTTP {refusal.status}).")


# How the providers say it where they have no code for it: vLLM and others, Anthropic.
_TOO_LONG = re.compile(
    r"maximum context length|prompt is too long|exceeds? (the )?context (window|limit)", re.IGNORECASE
)


def _is_too_long(refusal: Refusal) -> bool:
    return bool(_TOO_LONG.search((refusal.message or "")[:2000]))


_WORD = re.compile(r"\A[\w.\[\]-]{1,80}\Z", re.ASCII)
_RETRY_AFTER = re.compile(r"\A[\w ,:.-]{1,40}\Z", re.ASCII)
_REVEALING = re.compile(
    r"""\b[a-z][a-z0-9+.-]*://\S+             # an address
    | \b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b  # an IPv4 address
    | \b(?:sk|key|pk|xai|gsk)[-_][\w*.-]{6,}  # something like a key
    | \bBearer\s+\S+""",
    re.IGNORECASE | re.VERBOSE,
)


def scrub(message: str | None, target: Target) -> str:
    """A backend's own words without addresses, hosts and credentials, at most 500 characters."""
    text = clean_text(message or "", 2000)
    for secret in (target.credential, urlsplit(target.base_url).netloc, urlsplit(target.base_url).hostname):
        if secret:
            text = text.replace(secret, "[hidden]")
    return _REVEALING.sub("[hidden]", text)[:500]


def _word(value: str | None) -> str | None:
    return value if value and _WORD.match(value) else None
