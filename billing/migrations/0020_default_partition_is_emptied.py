from django.db import migrations

# A partition cannot be made while rows of its month lie in the default one. So the default partition is taken off,
# the partitions of its rows are made, and the rows go in again through the front door: nothing is updated or deleted.
EMPTY = """
CREATE FUNCTION billing_make_ledger_partition(month timestamp) RETURNS boolean
    LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    name text := 'billing_usagerecord_' || to_char(month, 'YYYYMM');
BEGIN
    IF to_regclass(quote_ident(name)) IS NOT NULL THEN
        RETURN false;
    END IF;
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
    RETURN true;
EXCEPTION
    WHEN check_violation THEN  -- rows of this month are in the default partition still: they count there
        RAISE WARNING 'partition % not made: the default partition holds rows of it', name;
        RETURN false;
    WHEN duplicate_table THEN  -- another process made it in this moment
        RETURN false;
END $$;

CREATE FUNCTION billing_empty_default_partition() RETURNS int
    LANGUAGE plpgsql SET search_path = public, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    reader text;
    month timestamp;
    made int := 0;
BEGIN
    LOCK TABLE billing_usagerecord IN ACCESS EXCLUSIVE MODE;
    IF NOT EXISTS (SELECT 1 FROM billing_usagerecord_default) THEN  -- another process did it meanwhile
        RETURN 0;
    END IF;
    ALTER TABLE billing_usagerecord DETACH PARTITION billing_usagerecord_default;
    ALTER TABLE billing_usagerecord_default RENAME TO billing_usagerecord_stray;
    CREATE TABLE billing_usagerecord_default PARTITION OF billing_usagerecord DEFAULT;
    CREATE TRIGGER no_truncate BEFORE TRUNCATE ON billing_usagerecord_default
        FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse_change();
    FOR reader IN
        SELECT acl.grantee::regrole::text FROM pg_class, aclexplode(relacl) AS acl
        WHERE oid = 'billing_usagerecord_stray'::regclass AND acl.privilege_type = 'SELECT' AND acl.grantee <> relowner
    LOOP
        EXECUTE 'GRANT SELECT ON billing_usagerecord_default TO ' || reader;
    END LOOP;
    FOR month IN
        SELECT DISTINCT date_trunc('month', billing_uuid7_moment(request_id) AT TIME ZONE 'UTC')
        FROM billing_usagerecord_stray
    LOOP
        made := made + billing_make_ledger_partition(month)::int;
    END LOOP;
    INSERT INTO billing_usagerecord SELECT * FROM billing_usagerecord_stray;
    DROP TABLE billing_usagerecord_stray;
    RETURN made;
EXCEPTION
    WHEN lock_not_available THEN
        RAISE WARNING 'the default partition is in use: its rows stay there until the next try';
        RETURN 0;
END $$;

CREATE FUNCTION billing_uuid7_moment(id uuid) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
    SELECT to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0)
$$;

CREATE OR REPLACE FUNCTION billing_create_ledger_partitions(months_ahead int) RETURNS int
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    made int := 0;
BEGIN
    IF months_ahead NOT BETWEEN 0 AND 24 THEN
        RAISE EXCEPTION 'months_ahead must be 0 to 24';
    END IF;
    IF EXISTS (SELECT 1 FROM billing_usagerecord_default) THEN
        made := billing_empty_default_partition();
    END IF;
    FOR i IN 0..months_ahead LOOP
        made := made + billing_make_ledger_partition(
            date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i)
        )::int;
    END LOOP;
    RETURN made;
END $$;
REVOKE ALL ON FUNCTION billing_make_ledger_partition(timestamp), billing_empty_default_partition() FROM PUBLIC;
"""


class Migration(migrations.Migration):
    """Irreversible, as the partitions are."""

    dependencies = [("billing", "0019_owner_is_told")]

    operations = [migrations.RunSQL(EMPTY)]
