"""Writes to backends and what else is called; each with its administrative event in one transaction."""

import logging
from collections import Counter
from dataclasses import dataclass
from enum import Enum, auto

from django.db import transaction

from audit.services import record_event
from guards.external_models import ExternalGuard
from outbound.credentials import CredentialError, needs_rotation, rotate_credential
from routing.models import Backend

logger = logging.getLogger(__name__)

_WITH_CREDENTIALS: tuple[type[Backend | ExternalGuard], ...] = (Backend, ExternalGuard)


@dataclass(frozen=True, slots=True)
class Rotation:
    """How many stored credentials were encrypted anew or were so already, and whose cannot be read."""

    rotated: int
    current: int
    unreadable: tuple[str, ...]


class _Outcome(Enum):
    ROTATED = auto()
    CURRENT = auto()
    UNREADABLE = auto()


def rotate_credentials(*, actor: str, batch_size: int = 100) -> Rotation:
    """Encrypt every stored credential under the first of GATEWAY_FIELD_KEYS.

    Safe while everything runs: a batch of rows is locked for its own short transaction, and read under that
    lock. A credential that cannot be read is left as it is. Raises CredentialError when there is no usable key.
    """
    outcomes: list[tuple[str, _Outcome]] = []
    for model in _WITH_CREDENTIALS:
        last = 0
        while batch := _list_stored(model, after=last, most=batch_size):
            outcomes += _rotate_batch(model, batch, actor)
            last = batch[-1]
    counts = Counter(outcome for _, outcome in outcomes)
    unreadable = tuple(name for name, outcome in outcomes if outcome is _Outcome.UNREADABLE)
    return Rotation(counts[_Outcome.ROTATED], counts[_Outcome.CURRENT], unreadable)


def _list_stored(model: type[Backend | ExternalGuard], *, after: int, most: int) -> list[int]:
    stored = model.objects.filter(pk__gt=after).exclude(credential_encrypted=None)
    return list(stored.order_by("pk").values_list("pk", flat=True)[:most])


@transaction.atomic
def _rotate_batch(
    model: type[Backend | ExternalGuard], ids: list[int], actor: str
) -> list[tuple[str, _Outcome]]:
    rows = model.objects.select_for_update().filter(pk__in=ids).exclude(credential_encrypted=None)
    return [(row.name, _rotate(row, actor)) for row in rows.order_by("pk")]


def _rotate(row: Backend | ExternalGuard, actor: str) -> _Outcome:
    encrypted = bytes(row.credential_encrypted or b"")
    if not needs_rotation(encrypted):
        return _Outcome.CURRENT
    try:
        row.credential_encrypted = rotate_credential(encrypted)
    except CredentialError as error:
        logger.error("A credential was not rotated: %s", error, extra={"backend": row.name})
        return _Outcome.UNREADABLE
    row.save(update_fields=["credential_encrypted"])
    event = {"credential_encrypted": "set"}, {"credential_encrypted": "encrypted anew"}
    record_event(actor, f"{row._meta.model_name}.rotate_credential", row, before=event[0], after=event[1])
    return _Outcome.ROTATED
