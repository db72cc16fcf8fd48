"""Writes the administrative trail, in the transaction of the change it describes."""

from typing import Any

from django.db import models

from audit.models import AdminEvent


def record_event(
    actor: str,
    action: str,
    target: models.Model,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> AdminEvent:
    """Append one event about `target`. `before` and `after` must be JSON-ready and hold no secret."""
    return _append(
        actor,
        action,
        object_type=target._meta.label_lower,
        object_id=str(target.pk),
        object_label=str(target)[:200],
        before=before,
        after=after,
    )


def record_incident(
    actor: str, action: str, object_type: str, object_label: str, *, after: dict[str, Any]
) -> AdminEvent:
    """Append one event about what is no row of ours, such as an address. `after` as in `record_event`."""
    return _append(
        actor,
        action,
        object_type=object_type,
        object_id="",
        object_label=object_label[:200],
        before=None,
        after=after,
    )


def _append(actor: str, action: str, **fields: Any) -> AdminEvent:
    return AdminEvent.objects.create(actor=actor[:200], action=action, **fields)
