"""What the runtime role may do, set anew after every migration: everything but change the past."""

from typing import Any

from django.apps import apps
from django.db import connections
from psycopg import sql

from audit.append_only import APPEND_ONLY_TABLES


def grant_runtime_role(using: str, **_: Any) -> None:
    """Give the role of DATABASE_URL its rights on every table; only SELECT and INSERT on append-only ones.

    Does nothing when both URLs name the same role (the system check gateway_site.W001 warns of that).
    """
    role = connections["default"].settings_dict["USER"]
    if using != "owner" or role == connections["owner"].settings_dict["USER"]:
        return
    tables = {
        model._meta.db_table for model in apps.get_models(include_auto_created=True) if model._meta.managed
    }
    with connections[using].cursor() as cursor:
        existing = set(connections[using].introspection.table_names(cursor))
        name = sql.Identifier(role)
        cursor.execute(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(name))
        cursor.execute(sql.SQL("GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {}").format(name))
        for table in sorted(tables & existing):
            cursor.execute(sql.SQL("REVOKE ALL ON {} FROM {}").format(sql.Identifier(table), name))
            rights = "SELECT, INSERT" if table in APPEND_ONLY_TABLES else "SELECT, INSERT, UPDATE, DELETE"
            cursor.execute(sql.SQL("GRANT " + rights + " ON {} TO {}").format(sql.Identifier(table), name))
        cursor.execute(sql.SQL("GRANT SELECT ON django_migrations TO {}").format(name))
        # A rebuild skips the numbers that the store used when the database was set back.
        if cursor.execute("SELECT to_regclass('billing_departmentepoch_n_seq') IS NOT NULL").fetchone()[0]:
            cursor.execute(
                sql.SQL("GRANT UPDATE ON SEQUENCE billing_departmentepoch_n_seq TO {}").format(name)
            )
        # Readiness looks whether rows fell into it; partitions are not among the tables that Django lists.
        if cursor.execute("SELECT to_regclass('billing_usagerecord_default') IS NOT NULL").fetchone()[0]:
            cursor.execute(sql.SQL("GRANT SELECT ON billing_usagerecord_default TO {}").format(name))
        if cursor.execute("SELECT to_regproc('billing_create_ledger_partitions') IS NOT NULL").fetchone()[0]:
            function = sql.SQL("GRANT EXECUTE ON FUNCTION billing_create_ledger_partitions(int) TO {}")
            cursor.execute(function.format(name))
