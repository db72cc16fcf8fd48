import django.db.models.deletion
from django.db import migrations, models

RISING = """
-- The number is drawn when the row is locked: of two that raise at once, the later to lock has the higher one.
CREATE OR REPLACE FUNCTION billing_raise_epoch(department bigint) RETURNS void LANGUAGE sql AS $$
    INSERT INTO billing_departmentepoch (department_id, n)
    VALUES (department, nextval('billing_departmentepoch_n_seq'))
    ON CONFLICT (department_id) DO UPDATE SET n = nextval('billing_departmentepoch_n_seq');
$$;

CREATE FUNCTION billing_epoch_only_rises() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.department_id <> OLD.department_id OR NEW.n < OLD.n THEN
        RAISE EXCEPTION 'An epoch only rises.' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER billing_epoch_only_rises BEFORE UPDATE ON billing_departmentepoch
    FOR EACH ROW EXECUTE FUNCTION billing_epoch_only_rises();

-- Without an epoch the department's rules would not be read. It goes when its department has gone.
DO $$
DECLARE
    old text;
BEGIN
    SELECT conname INTO STRICT old FROM pg_constraint
        WHERE conrelid = 'billing_departmentepoch'::regclass AND contype = 'f';
    EXECUTE format('ALTER TABLE billing_departmentepoch DROP CONSTRAINT %I', old);
END $$;
ALTER TABLE billing_departmentepoch ADD CONSTRAINT billing_departmentepoch_of_department
    FOREIGN KEY (department_id) REFERENCES teams_department ON DELETE CASCADE;
CREATE FUNCTION billing_epoch_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM teams_department WHERE id = OLD.department_id) THEN
        RAISE EXCEPTION 'An epoch goes only with its department.' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER billing_epoch_stays AFTER DELETE ON billing_departmentepoch
    FOR EACH ROW EXECUTE FUNCTION billing_epoch_stays();
"""

AS_BEFORE = """
ALTER TABLE billing_departmentepoch DROP CONSTRAINT billing_departmentepoch_of_department;
ALTER TABLE billing_departmentepoch ADD CONSTRAINT billing_departmentepoch_of_department
    FOREIGN KEY (department_id) REFERENCES teams_department DEFERRABLE INITIALLY DEFERRED;
DROP TRIGGER billing_epoch_stays ON billing_departmentepoch;
DROP FUNCTION billing_epoch_stays();
DROP TRIGGER billing_epoch_only_rises ON billing_departmentepoch;
DROP FUNCTION billing_epoch_only_rises();
CREATE OR REPLACE FUNCTION billing_raise_epoch(department bigint) RETURNS void LANGUAGE sql AS $$
    INSERT INTO billing_departmentepoch (department_id, n)
    VALUES (department, nextval('billing_departmentepoch_n_seq'))
    ON CONFLICT (department_id) DO UPDATE SET n = EXCLUDED.n;
$$;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0016_rules_name_catalogue_models")]

    operations = [
        migrations.RunSQL(RISING, AS_BEFORE),
        migrations.AlterField(
            model_name="departmentepoch",
            name="department",
            field=models.OneToOneField(
                on_delete=django.db.models.deletion.DO_NOTHING,
                primary_key=True,
                related_name="epoch",
                serialize=False,
                to="teams.department",
            ),
        ),
    ]
