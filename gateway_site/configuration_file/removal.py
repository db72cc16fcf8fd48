"""Removing an object together with what cannot be without it, each with its event."""

from collections import Counter
from typing import Any

from django.contrib.admin.utils import NestedObjects
from django.core.exceptions import ValidationError
from django.db import models

from audit.admin_trail import record_deletion


def remove_with_trail(target: models.Model, actor: str) -> None:
    """Delete `target` and what goes with it. Raises ValidationError while something holds on to it."""
    collector = NestedObjects(using="default")
    collector.collect([target])
    if collector.protected:
        raise ValidationError(f"it is still used by {_count(collector.protected)}")
    for doomed in (item for items in collector.model_objs.values() for item in items):
        record_deletion(actor, doomed)
    target.delete()


def _count(rows: Any) -> str:
    """For example: 2 teams, 1 API key."""
    counts = Counter(type(row)._meta for row in rows)
    return ", ".join(
        f"{number} {meta.verbose_name if number == 1 else meta.verbose_name_plural}"
        for meta, number in counts.items()
    )
