from django.db import migrations

from teams.configuration import announce_changes

EPOCHS = """
CREATE SEQUENCE billing_departmentepoch_n_seq;

CREATE FUNCTION billing_raise_epoch(department bigint) RETURNS void LANGUAGE sql AS $$
    INSERT INTO billing_departmentepoch (department_id, n)
    VALUES (department, nextval('billing_departmentepoch_n_seq'))
    ON CONFLICT (department_id) DO UPDATE SET n = EXCLUDED.n;
$$;

SELECT billing_raise_epoch(id) FROM teams_department ORDER BY id;

-- A budget that counts what was not counted so far starts from the ledger. Its amount, and whether it is hard,
-- are not part of what it counts.
CREATE FUNCTION billing_budget_raises_epoch() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    edited text[] := '{amount,is_hard}';
BEGIN
    IF TG_OP = 'UPDATE' AND to_jsonb(OLD) - edited = to_jsonb(NEW) - edited THEN
        RETURN NULL;
    END IF;
    PERFORM billing_raise_epoch(coalesce(
        NEW.department_id,
        (SELECT department_id FROM teams_team WHERE id = NEW.team_id),
        (SELECT t.department_id FROM teams_application a JOIN teams_team t ON t.id = a.team_id
            WHERE a.id = NEW.application_id),
        (SELECT t.department_id FROM teams_apikey k JOIN teams_team t ON t.id = k.team_id WHERE k.id = NEW.api_key_id)
    ));
    RETURN NULL;
END $$;
CREATE TRIGGER billing_budget_raises_epoch AFTER INSERT OR UPDATE ON billing_budget
    FOR EACH ROW EXECUTE FUNCTION billing_budget_raises_epoch();

CREATE FUNCTION billing_department_raises_epoch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' OR NEW.time_zone <> OLD.time_zone THEN
        PERFORM billing_raise_epoch(NEW.id);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER billing_department_raises_epoch AFTER INSERT OR UPDATE OF time_zone ON teams_department
    FOR EACH ROW EXECUTE FUNCTION billing_department_raises_epoch();

CREATE FUNCTION billing_team_raises_epoch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.department_id <> OLD.department_id THEN
        PERFORM billing_raise_epoch(least(OLD.department_id, NEW.department_id));
        PERFORM billing_raise_epoch(greatest(OLD.department_id, NEW.department_id));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER billing_team_raises_epoch AFTER UPDATE OF department_id ON teams_team
    FOR EACH ROW EXECUTE FUNCTION billing_team_raises_epoch();
"""

NO_EPOCHS = """
DROP TRIGGER billing_team_raises_epoch ON teams_team;
DROP FUNCTION billing_team_raises_epoch();
DROP TRIGGER billing_department_raises_epoch ON teams_department;
DROP FUNCTION billing_department_raises_epoch();
DROP TRIGGER billing_budget_raises_epoch ON billing_budget;
DROP FUNCTION billing_budget_raises_epoch();
DROP FUNCTION billing_raise_epoch(bigint);
DROP SEQUENCE billing_departmentepoch_n_seq;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0014_limits_and_budgets"), ("teams", "0002_announce_changes")]

    operations = [
        migrations.RunSQL(EPOCHS, NO_EPOCHS),
        announce_changes("billing_limit"),
        announce_changes("billing_budget"),
        announce_changes("billing_departmentepoch"),
    ]
