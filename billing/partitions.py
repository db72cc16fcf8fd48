"""Monthly partitions of the ledger, made ahead by a function that runs as the schema's owner."""

from django.db import connection

MONTHS_AHEAD = 3


def create_ledger_partitions(months_ahead: int = MONTHS_AHEAD) -> int:
    """Make the partitions of this month and the next `months_ahead` that are missing; returns how many."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT billing_create_ledger_partitions(%s)", [months_ahead])
        return int(cursor.fetchone()[0])
