"""What is known of one request, filled in as the stages pass; it becomes the headers and the ledger entry."""

import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime

from billing.admission.account import Admitted
from billing.admission.queue import Stay
from billing.estimate import Estimate
from billing.ids import uuid7
from billing.ledger import FailedAttempt, LedgerEntry
from billing.models import Status
from billing.money import FREE, Cost, Price
from billing.steps import GrowingReserve
from billing.usage import NOTHING_USED, Usage
from guards.look import Noted
from guards.redaction import Vault
from routing.content import Reading
from routing.snapshot import Target
from teams.errors import GatewayError
from teams.key_holder import KeyHolder

MOST_FINDINGS = 50  # kinds and places that a record names


@dataclass(slots=True)
class Trace:
    """One request's story. `started`, `called_at`, `first_byte_at` are seconds of the monotonic clock.

    `target`, `price`, `usage` and `cost` are those of the present call to a backend; what earlier ones, which failed,
    may have used and cost is kept beside them, and the record has the sums.
    """

    operation: str
    request_id: uuid.UUID = field(default_factory=uuid7)
    id: str = field(init=False)  # the same in writing, as headers, backends and the counters have it
    admitted_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.monotonic)
    called_at: float | None = None
    first_byte_at: float | None = None
    streamed: bool = False
    is_the_streams: bool = False  # a stream has begun: it records the request, however and whenever it ends
    status: Status = Status.COMPLETED
    http_status: int = 200
    reason: str = ""
    caller: KeyHolder | None = None
    application_id: int | None = None  # the one the call counts for: named by the caller, else the key's own
    application: str = ""
    end_user: str = ""
    client_request_id: str = ""
    model: str = ""
    model_alias: str | None = None
    target: Target | None = None
    price: Price | None = None
    is_held: bool = False  # the counters hold this call, or may
    admitted: Admitted | None = None
    stay: Stay | None = None  # in the queue, of a call that had to wait
    estimate: Estimate | None = None  # of the call that was made
    reserve: GrowingReserve | None = None  # of a stream that is held in steps
    reading: Reading | None = None  # of the content, where it chose the model
    served_model: str | None = None  # another than asked for, which serves in its place
    dropped: tuple[str, ...] = ()  # what of the request the present backend has no place for
    attempts: int = 0
    failed: tuple[FailedAttempt, ...] = ()  # those after which another call was made
    failed_usage: Usage = NOTHING_USED
    failed_cost: Cost = FREE
    attempt_at: float = 0.0  # when the present call began, by the monotonic clock
    usage: Usage = NOTHING_USED
    cost: Cost = FREE
    findings: tuple[Noted, ...] = ()  # of guards
    vault: Vault | None = None  # what placeholders stand for, where there are any
    tags: frozenset[str] = frozenset()  # that backends must have for what was found

    def __post_init__(self) -> None:
        """Write the id once."""
        self.id = str(self.request_id)

    def call_begins(self) -> None:
        """The request goes to the backend now."""
        self.attempt_at = time.monotonic()
        if self.called_at is None:
            self.called_at = self.attempt_at
        self.attempts += 1

    def fail_over(
        self, error: GatewayError, target: Target, price: Price, *, was_continued: bool = False
    ) -> None:
        """The present call failed, and what it may have cost is charged; the next goes to `target`, and may continue
        what the failed one had begun."""
        assert self.target is not None, "a call was made"  # noqa: S101
        attempt = FailedAttempt(
            backend_id=self.target.backend_id,
            backend=self.target.name,
            reason=error.reason,
            duration_ms=round((time.monotonic() - self.attempt_at) * 1000),
            input_tokens=self.usage.input_tokens,
            output_tokens=self.usage.output_tokens,
            cost_nanousd=self.cost.total_nanousd,
            was_continued=was_continued,
        )
        self.failed += (attempt,)
        self.failed_usage += self.usage
        self.failed_cost += self.cost
        self.usage, self.cost = NOTHING_USED, FREE
        self.target, self.price, self.first_byte_at = target, price, None

    @property
    def overhead_s(self) -> float:
        """The gateway's own time before the backend was called; waiting for a limit is not the gateway's."""
        assert self.called_at is not None, "only a call that was made has a time before it"  # noqa: S101
        return self.called_at - self.started - (self.stay.waited_s if self.stay is not None else 0)

    def first_byte_arrived(self) -> None:
        """The backend answered; later calls change nothing."""
        if self.first_byte_at is None:
            self.first_byte_at = time.monotonic()

    def charge(self, usage: Usage) -> None:
        """Price `usage` at the price that was in force when the request was admitted."""
        assert self.price is not None, "a call is only made when it can be priced"  # noqa: S101
        self.usage = usage
        self.cost = self.price.cost(usage)

    def fail(self, error: GatewayError) -> None:
        """Note how the request ended: refused by us before a call was made, or failed after."""
        self.status = Status.REFUSED if self.attempts == 0 else Status.FAILED
        self.http_status = error.status
        self.reason = error.reason

    def replay(self, http_status: int) -> None:
        """The answer of an earlier call is told again: no backend is called, nothing is spent."""
        self.status = Status.COMPLETED if http_status == 200 else Status.REFUSED
        self.http_status = http_status
        self.reason = "idempotent_replay"

    def leave(self) -> None:
        """The caller disconnected before its answer was complete."""
        self.status = Status.CLIENT_LEFT
        self.http_status = 499  # nginx's word for it; nobody receives it
        self.reason = "client_left"

    def to_abandoned_entry(self, reserve: Usage, *, attempts: int) -> LedgerEntry:
        """The ledger row if this process dies during the call that is the last of `attempts`: at the estimate
        `reserve`."""
        assert self.price is not None, "a call is only made when it can be priced"  # noqa: S101
        entry = self._to_entry(reserve, self.price.cost(reserve))
        entry.status, entry.http_status, entry.reason = Status.ABANDONED.value, 0, "worker_died"
        entry.attempts = attempts
        return entry

    def to_entry(self) -> LedgerEntry:
        """The ledger row of this request as it stands."""
        return self._to_entry(self.usage, self.cost)

    def _to_entry(self, usage: Usage, cost: Cost) -> LedgerEntry:
        caller, target = self.caller, self.target
        if self.failed:
            usage, cost = usage + self.failed_usage, cost + self.failed_cost
        owner = caller.owner if caller else None
        price = self.price
        now = time.monotonic()
        return LedgerEntry(
            request_id=self.request_id,
            admitted_at=self.admitted_at,
            ended_at=datetime.now(UTC),
            operation=self.operation,
            streamed=self.streamed,
            status=self.status.value,
            http_status=self.http_status,
            reason=self.reason,
            department_id=owner.department_id if owner else None,
            department=owner.department if owner else "",
            team_id=owner.team_id if owner else None,
            team=owner.team if owner else "",
            application_id=self.application_id,
            application=self.application,
            api_key_id=caller.key_id if caller else None,
            api_key_hint=caller.hint if caller else "",
            end_user=self.end_user,
            is_other_user=self.admitted is not None and self.admitted.is_other_user,
            client_request_id=self.client_request_id,
            model=self.model,
            model_alias=self.model_alias,
            served_model=self.served_model,
            backend_id=target.backend_id if target else None,
            backend=target.name if target else "",
            price_entry_id=price.entry_id if price and not price.is_list else None,
            list_price_id=price.entry_id if price and price.is_list else None,
            input_tokens=usage.input_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            output_tokens=usage.output_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            estimated=usage.estimated,
            input_cost_nanousd=cost.input_nanousd,
            cached_input_cost_nanousd=cost.cached_input_nanousd,
            cache_write_cost_nanousd=cost.cache_write_nanousd,
            output_cost_nanousd=cost.output_nanousd,
            cost_nanousd=cost.total_nanousd,
            attempts=self.attempts,
            failed_attempts=self.failed or None,
            guard_findings=self.findings[:MOST_FINDINGS] or None,
            duration_ms=round((now - self.started) * 1000),
            first_byte_ms=None
            if self.first_byte_at is None
            else round((self.first_byte_at - self.started) * 1000),
            overhead_us=None if self.called_at is None else round(self.overhead_s * 1_000_000),
        )
