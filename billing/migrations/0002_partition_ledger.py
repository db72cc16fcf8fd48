from django.db import migrations

PARTITION = """
ALTER TABLE billing_usagerecord RENAME TO billing_usagerecord_flat;
CREATE TABLE billing_usagerecord (LIKE billing_usagerecord_flat INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
    PARTITION BY RANGE (request_id);
DROP TABLE billing_usagerecord_flat;
ALTER TABLE billing_usagerecord ADD CONSTRAINT billing_usagerecord_pkey PRIMARY KEY (request_id);
CREATE INDEX usagerecord_team ON billing_usagerecord (team_id, request_id DESC);
CREATE INDEX usagerecord_key ON billing_usagerecord (api_key_id, request_id DESC);
CREATE TABLE billing_usagerecord_default PARTITION OF billing_usagerecord DEFAULT;
-- Row triggers of the parent reach its partitions by themselves, those on TRUNCATE do not.
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON billing_usagerecord_default
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse_change();

-- The first 48 bits of a UUIDv7 are milliseconds since 1970, so a month is a range of ids.
CREATE FUNCTION billing_uuid7_floor(moment timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (rpad(lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0'), 32, '0'))::uuid
$$;

-- Runs as the schema's owner so that the runtime role can make partitions and nothing else.
CREATE FUNCTION billing_create_ledger_partitions(months_ahead int) RETURNS int
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    month timestamp;
    name text;
    made int := 0;
BEGIN
    IF months_ahead NOT BETWEEN 0 AND 24 THEN
        RAISE EXCEPTION 'months_ahead must be 0 to 24';
    END IF;
    FOR i IN 0..months_ahead LOOP
        month := date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i);
        name := 'billing_usagerecord_' || to_char(month, 'YYYYMM');
        CONTINUE WHEN to_regclass(name) IS NOT NULL;
        BEGIN
            EXECUTE format(
                'CREATE TABLE %I PARTITION OF billing_usagerecord FOR VALUES FROM (%L) TO (%L)',
                name,
                billing_uuid7_floor(month AT TIME ZONE 'UTC'),
                billing_uuid7_floor((month + interval '1 month') AT TIME ZONE 'UTC')
            );
            EXECUTE format(
                'CREATE TRIGGER no_truncate BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse_change()',
                name
            );
            made := made + 1;
        EXCEPTION
            WHEN check_violation THEN  -- rows of this month are in the default partition: they stay, and count
                RAISE WARNING 'partition % not made: the default partition holds rows of it', name;
            WHEN duplicate_table THEN  -- another process made it in this moment
                NULL;
        END;
    END LOOP;
    RETURN made;
END $$;
REVOKE ALL ON FUNCTION billing_create_ledger_partitions(int) FROM PUBLIC;
SELECT billing_create_ledger_partitions(3);
"""


class Migration(migrations.Migration):
    """Irreversible: turning the ledger back into one table would rewrite it."""

    dependencies = [("billing", "0001_initial"), ("audit", "0002_events_append_only")]

    operations = [migrations.RunSQL(PARTITION)]
