from django.db import migrations


class Migration(migrations.Migration):
    """What Django's constraints cannot say of a key: the form of each rule, and that revoking is final."""

    dependencies = [("teams", "0004_key_rules")]

    operations = [
        migrations.RunSQL(
            """
            ALTER TABLE teams_apikey
                ADD CONSTRAINT apikey_ip_ranges_form CHECK (
                    ip_ranges::cidr[] IS NOT NULL AND array_position(ip_ranges, NULL) IS NULL
                ),
                ADD CONSTRAINT apikey_allowed_models_form CHECK (
                    array_position(allowed_models, NULL) IS NULL
                    AND array_position(allowed_models, '') IS NULL
                    AND array_to_string(allowed_models, E'\\n') ~ '^([A-Za-z0-9][A-Za-z0-9._:/-]{0,127}(\\n|$))*$'
                );
            """,
            """
            ALTER TABLE teams_apikey
                DROP CONSTRAINT apikey_ip_ranges_form, DROP CONSTRAINT apikey_allowed_models_form;
            """,
        ),
        migrations.RunSQL(
            """
            CREATE FUNCTION teams_refuse_revival() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                RAISE EXCEPTION 'a revoked key stays revoked' USING ERRCODE = 'check_violation';
            END $$;
            CREATE TRIGGER teams_apikey_revoked_for_good BEFORE UPDATE ON teams_apikey FOR EACH ROW
                WHEN (OLD.revoked_at IS NOT NULL AND NEW.revoked_at IS DISTINCT FROM OLD.revoked_at)
                EXECUTE FUNCTION teams_refuse_revival();
            """,
            """
            DROP TRIGGER teams_apikey_revoked_for_good ON teams_apikey;
            DROP FUNCTION teams_refuse_revival();
            """,
        ),
    ]
