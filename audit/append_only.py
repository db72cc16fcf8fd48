"""Makes a table append-only in the database itself; for use in migrations of any app."""

from django.db.migrations import RunSQL

# Tables that the runtime role may only read and append to (grants: gateway_site/grants.py).
APPEND_ONLY_TABLES = (
    "audit_adminevent",
    "billing_usagerecord",
    "billing_usagecorrection",
    "billing_quarantinedframe",
)

CREATE_FUNCTION = RunSQL(
    """
    CREATE FUNCTION audit_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'insufficient_privilege';
    END $$;
    """,
    "DROP FUNCTION audit_refuse_change();",
)


def append_only(table: str) -> RunSQL:
    """Triggers that refuse UPDATE, DELETE and TRUNCATE on `table`, for every role.

    A partition gets the first two from its parent and needs a trigger of its own on TRUNCATE.
    """
    return RunSQL(
        f"""
        CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table}
            FOR EACH ROW EXECUTE FUNCTION audit_refuse_change();
        CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table}
            FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse_change();
        """,
        f"DROP TRIGGER {table}_append_only ON {table}; DROP TRIGGER {table}_no_truncate ON {table};",
    )
