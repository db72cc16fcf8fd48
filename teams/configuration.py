"""How gateway workers learn of changes: a trigger raises one version number in the transaction of the change."""

from django.db.migrations import RunSQL

CREATE_FUNCTION = RunSQL(
    """
    INSERT INTO teams_configurationversion (id, version) VALUES (1, 1);
    CREATE FUNCTION teams_configuration_changed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE teams_configurationversion SET version = version + 1 WHERE id = 1;
        RETURN NULL;
    END $$;
    """,
    "DROP FUNCTION teams_configuration_changed(); DELETE FROM teams_configurationversion;",
)


def announce_changes(table: str) -> RunSQL:
    """A trigger on `table` that counts every statement which changes it, whoever runs it."""
    return RunSQL(
        f"""
        CREATE TRIGGER {table}_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table}
            FOR EACH STATEMENT EXECUTE FUNCTION teams_configuration_changed();
        """,
        f"DROP TRIGGER {table}_changed ON {table};",
    )
