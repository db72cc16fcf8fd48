"""Whatever removes platform admins, by whichever way, leaves one who can sign in."""

from django.conf import settings
from django.db import migrations

# The lock makes two transactions that each remove "the other one" wait for each other; the count then reads
# what the first has committed. Closing the account of somebody who is none asks for nothing.
CREATE = """
CREATE FUNCTION teams_keep_a_platform_admin() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'auth_user' THEN
        IF NOT OLD.is_superuser AND NOT EXISTS (
            SELECT FROM teams_member WHERE user_id = OLD.id AND role = 'platform_admin'
        ) THEN
            RETURN NULL;
        END IF;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('teams_keep_a_platform_admin'));
    IF NOT EXISTS (
        SELECT FROM auth_user u WHERE u.is_active AND (
            u.is_superuser OR EXISTS (
                SELECT FROM teams_member m WHERE m.user_id = u.id AND m.role = 'platform_admin'
            )
        )
    ) THEN
        RAISE EXCEPTION 'this would remove the last platform admin'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'keep_a_platform_admin';
    END IF;
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER member_keeps_a_platform_admin
    AFTER DELETE OR UPDATE ON teams_member DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (OLD.role = 'platform_admin')
    EXECUTE FUNCTION teams_keep_a_platform_admin();

CREATE CONSTRAINT TRIGGER user_keeps_a_platform_admin_on_update
    AFTER UPDATE OF is_active, is_superuser ON auth_user DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (
        (OLD.is_active AND NOT NEW.is_active) OR (OLD.is_superuser AND NOT NEW.is_superuser)
    )
    EXECUTE FUNCTION teams_keep_a_platform_admin();

CREATE CONSTRAINT TRIGGER user_keeps_a_platform_admin_on_delete
    AFTER DELETE ON auth_user DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (OLD.is_superuser)
    EXECUTE FUNCTION teams_keep_a_platform_admin();
"""
DROP = """
DROP TRIGGER user_keeps_a_platform_admin_on_delete ON auth_user;
DROP TRIGGER user_keeps_a_platform_admin_on_update ON auth_user;
DROP TRIGGER member_keeps_a_platform_admin ON teams_member;
DROP FUNCTION teams_keep_a_platform_admin();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("teams", "0009_keys_raise_no_version"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]
    operations = [migrations.RunSQL(CREATE, DROP)]
