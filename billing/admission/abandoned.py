"""Records in the ledger that nobody else writes: of calls whose worker is silent, and of copies that it left."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

import msgspec
from django.db import DataError, IntegrityError, connection, transaction
from django.db.models import Model

from billing.admission.holds import Amounts, StoredHold
from billing.admission.ledger_view import LedgerView
from billing.ledger import LedgerEntry, clean_text
from billing.ledger_rows import append_entries, read_head
from billing.models import QuarantinedFrame, Spool, Status
from billing.rule_models import SweptCall
from teams.models import ApiKey, Application, Department, Team

logger = logging.getLogger(__name__)

REASON = "worker_silent"
NO_FRAME = 0  # the number of a row that no frame of a spool told


class AbandonedRecords:
    """See janitor.AbandonedCalls."""

    def __init__(self, ledger: LedgerView) -> None:
        self._ledger = ledger

    def record(self, department_id: int, holds: Sequence[StoredHold]) -> Mapping[str, Amounts]:
        """Commit a row at its estimate for each hold that has none; returns what the ledger holds of each.

        What was written here is remembered, so that counters that are made anew know of it when the worker
        comes back. Raises Django's errors while PostgreSQL is away.
        """
        names = _Names(holds)
        bodies = [msgspec.json.encode(_estimate(hold, names)) for hold in holds]
        with transaction.atomic(durable=True):
            inserted = append_entries(bodies).inserted
            SweptCall.objects.bulk_create(
                [SweptCall(request_id=rid, department_id=department_id) for rid in inserted],
                ignore_conflicts=True,
            )
        totals = {hold.rid: Amounts() for hold in holds}
        with connection.cursor() as cursor:
            for line in self._ledger.read_lines(cursor, [UUID(hold.rid) for hold in holds]):
                totals[line.rid] += line.amounts
        return totals


def _estimate(hold: StoredHold, names: "_Names") -> LedgerEntry:
    """The most that the call may have come to. How it splits into prompt and answer is not known: all is taken
    for answer, which the database demands to be somewhere."""
    call, now = hold.owner.call, datetime.now(UTC)
    return LedgerEntry(
        request_id=UUID(hold.rid),
        admitted_at=datetime.fromtimestamp(hold.admitted_ms / 1000, UTC),
        ended_at=now,
        operation="unknown",
        streamed=False,
        status=Status.ABANDONED.value,
        http_status=0,
        reason=REASON,
        department_id=call.department_id,
        department=names.of(Department, call.department_id),
        team_id=call.team_id,
        team=names.of(Team, call.team_id),
        application_id=call.application_id,
        application=names.of(Application, call.application_id),
        api_key_id=call.api_key_id,
        api_key_hint=names.of(ApiKey, call.api_key_id),
        end_user=clean_text(call.end_user),
        is_other_user=call.is_other_user,
        client_request_id="",
        model=clean_text(call.model, 128),
        backend_id=None,
        backend="",
        price_entry_id=None,
        input_tokens=0,
        cached_input_tokens=0,
        cache_write_tokens=0,
        output_tokens=hold.amounts.tokens,
        reasoning_tokens=0,
        estimated=True,
        input_cost_nanousd=0,
        cached_input_cost_nanousd=0,
        cache_write_cost_nanousd=0,
        output_cost_nanousd=hold.amounts.money,
        cost_nanousd=hold.amounts.money,
        attempts=0,
        duration_ms=max(0, int(now.timestamp() * 1000) - hold.admitted_ms),
        first_byte_ms=None,
        overhead_us=None,
        spool=UUID(hold.owner.spool),
        seq=NO_FRAME,
    )


class _Names:
    """What the callers of some holds are called today; empty for what is gone."""

    def __init__(self, holds: Sequence[StoredHold]) -> None:
        calls = [hold.owner.call for hold in holds]
        self._by_model: dict[type[Model], dict[int, str]] = {
            Department: _read(Department, "slug", (call.department_id for call in calls)),
            Team: _read(Team, "slug", (call.team_id for call in calls)),
            Application: _read(Application, "slug", (call.application_id for call in calls)),
            ApiKey: _read(ApiKey, "hint", (call.api_key_id for call in calls)),
        }

    def of(self, model: type[Model], number: int | None) -> str:
        return self._by_model[model].get(number or 0, "")


def _read(model: type[Model], field: str, ids: Iterable[int | None]) -> dict[int, str]:
    wanted = {number for number in ids if number is not None}
    return dict(model._default_manager.filter(pk__in=wanted).values_list("pk", field))


def record_copy(body: bytes) -> None:
    """Commit a record that its worker booked and could not ship, as the worker's own frame.

    Its spool may still be shipped: that is a replay then. Until so it is remembered as a row that the spool's
    watermark does not cover. What cannot be stored goes to quarantine.
    """
    head = read_head(body)
    try:
        with transaction.atomic(durable=True):
            appended = append_entries([body])
            if appended.collisions:
                _keep(head.spool, head.seq, body, "collision: another record with this request id exists")
            elif appended.inserted or appended.corrected:
                _remember(head.request_id, head.department_id, head.spool, head.seq)
    except (DataError, IntegrityError) as error:
        _keep(head.spool, head.seq, body, str(error))


def _remember(request_id: UUID, department_id: int | None, spool: UUID, seq: int) -> None:
    is_covered = Spool.objects.filter(pk=spool, shipped_seq__gte=seq).exists()
    if department_id is not None and not is_covered:
        SweptCall.objects.get_or_create(request_id=request_id, defaults={"department_id": department_id})


def _keep(spool: UUID, seq: int, body: bytes, error: str) -> None:
    logger.error("A copy of a usage record was quarantined: %s", error.splitlines()[0])
    QuarantinedFrame.objects.get_or_create(
        spool=spool, seq=seq, defaults={"body": body, "error": error[:500]}
    )
