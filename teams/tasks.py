"""Celery tasks of keys: each calls the service of the same name."""

from celery import shared_task

from teams import key_changes


@shared_task  # type: ignore[untyped-decorator]
def prune_key_changes() -> int:
    """Keep a day of the log of key changes."""
    return key_changes.prune_key_changes()
