"""Celery tasks of the ledger: each calls the service of the same name."""

from celery import shared_task

from billing import partitions


@shared_task  # type: ignore[untyped-decorator]
def create_ledger_partitions() -> int:
    """Keep the ledger's partitions three months ahead."""
    return partitions.create_ledger_partitions()
