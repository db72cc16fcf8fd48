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
    return AdminEvent.objects.create(
        actor=actor[:200],
        action=action,
        object_type=target._meta.label_lower,
        object_id=str(target.pk),
        object_label=str(target)[:200],
        before=before,
        after=after,
    )
