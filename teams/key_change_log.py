"""The triggers that log changes of keys, and of what a known key's holder is made of; for use in a migration.

Each statement that changes rows, whoever runs it, adds lines to `teams_keychange` in its own transaction.
"""

from collections.abc import Iterator

from django.db.migrations import RunSQL

# A statement that changes more than a thousand rows tells the workers to forget everything.
_FUNCTIONS = """
    CREATE FUNCTION teams_log_changes(changed_kind text, ids bigint[]) RETURNS void LANGUAGE sql AS $$
        INSERT INTO teams_keychange (kind, object_id, xact, at)
        SELECT changed_kind, id, pg_current_xact_id()::text::bigint, now()
            FROM unnest(ids) AS id WHERE cardinality(ids) <= 1000
        UNION ALL
        SELECT 'everything', NULL, pg_current_xact_id()::text::bigint, now()
            WHERE cardinality(ids) > 1000;
    $$;
    CREATE FUNCTION teams_log_event() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO teams_keychange (kind, object_id, xact, at)
            VALUES (TG_ARGV[0], NULL, pg_current_xact_id()::text::bigint, now());
        RETURN NULL;
    END $$;
    CREATE TRIGGER teams_apikey_created AFTER INSERT ON teams_apikey
        FOR EACH STATEMENT EXECUTE FUNCTION teams_log_event('created');
    CREATE TRIGGER teams_apikey_truncated AFTER TRUNCATE ON teams_apikey
        FOR EACH STATEMENT EXECUTE FUNCTION teams_log_event('everything');
"""
_DROP_FUNCTIONS = """
    DROP TRIGGER teams_apikey_truncated ON teams_apikey;
    DROP TRIGGER teams_apikey_created ON teams_apikey;
    DROP FUNCTION teams_log_event();
    DROP FUNCTION teams_log_changes(text, bigint[]);
"""
# Table, kind, ids among the changed rows, and the versions of a row that count.
_SOURCES = (
    ("teams_apikey", "key", "SELECT id FROM changed", ("UPDATE OLD", "DELETE OLD")),
    ("teams_team", "team", "SELECT id FROM changed", ("UPDATE OLD", "DELETE OLD")),
    (
        "teams_application",
        "team",
        "SELECT DISTINCT team_id FROM changed",
        ("INSERT NEW", "UPDATE OLD", "UPDATE NEW", "DELETE OLD"),
    ),
    (
        "teams_department",
        "team",
        "SELECT id FROM teams_team WHERE department_id IN (SELECT id FROM changed)",
        ("UPDATE OLD",),
    ),
)


def _source_functions() -> Iterator[tuple[str, str]]:
    """The statements that make and drop what watches each table."""
    for table, kind, ids, versions in _SOURCES:
        yield (
            f"""
            CREATE FUNCTION {table}_log() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM teams_log_changes('{kind}', ARRAY({ids}));
                RETURN NULL;
            END $$;
            """,
            f"DROP FUNCTION {table}_log();",
        )
        for version in versions:
            event, which = version.split()
            name = f"{table}_log_{event}_{which}".lower()
            yield (
                f"""
                CREATE TRIGGER {name} AFTER {event} ON {table} REFERENCING {which} TABLE AS changed
                    FOR EACH STATEMENT EXECUTE FUNCTION {table}_log();
                """,
                f"DROP TRIGGER {name} ON {table};",
            )


def log_key_changes() -> list[RunSQL]:
    """For a migration: the triggers of every table that a worker's known keys depend on."""
    return [RunSQL(_FUNCTIONS, _DROP_FUNCTIONS), *(RunSQL(make, drop) for make, drop in _source_functions())]
