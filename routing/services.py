"""Writes to backends; each with its administrative event in one transaction."""

import logging
from collections import Counter
from dataclasses import dataclass
from enum import Enum, auto

from django.db import transaction

from audit.services import record_event
from outbound.credentials import CredentialError, needs_rotation, rotate_credential
from routing.models import Backend

logger = logging.getLogger(__name__)


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
    last = 0
    while batch := _list_stored(after=last, most=batch_size):
        outcomes += _rotate_batch(batch, actor)
        last = batch[-1]
    counts = Counter(outcome for _, outcome in outcomes)
    unreadable = tuple(name for name, outcome in outcomes if outcome is _Outcome.UNREADABLE)
    return Rotation(counts[_Outcome.ROTATED], counts[_Outcome.CURRENT], unreadable)


def _list_stored(*, after: int, most: int) -> list[int]:
    stored = Backend.objects.filter(pk__gt=after).exclude(credential_encrypted=None)
    return list(stored.order_by("pk").values_list("pk", flat=True)[:most])


@transaction.atomic
def _rotate_batch(ids: list[int], actor: str) -> list[tuple[str, _Outcome]]:
    backends = Backend.objects.select_for_update().filter(pk__in=ids).exclude(credential_encrypted=None)
    return [(backend.name, _rotate(backend, actor)) for backend in backends.order_by("pk")]


def _rotate(backend: Backend, actor: str) -> _Outcome:
    encrypted = bytes(backend.credential_encrypted or b"")
    if not needs_rotation(encrypted):
        return _Outcome.CURRENT
    try:
        backend.credential_encrypted = rotate_credential(encrypted)
    except CredentialError as error:
        logger.error("A credential was not rotated: %s", error, extra={"backend": backend.name})
        return _Outcome.UNREADABLE
    backend.save(update_fields=["credential_encrypted"])
    event = {"credential_encrypted": "set"}, {"credential_encrypted": "encrypted anew"}
    record_event(actor, "backend.rotate_credential", backend, before=event[0], after=event[1])
    return _Outcome.ROTATED
