from django.db import migrations

NAMES_APART = """
-- One name means one model. The lock makes two transactions that take the same name wait for each other, and the
-- query after it sees what the first one committed.
CREATE FUNCTION routing_refuse_taken_model_name() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    is_taken boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('routing model name ' || NEW.name, 0));
    EXECUTE format('SELECT EXISTS (SELECT FROM %I WHERE name = $1)', TG_ARGV[0]) INTO is_taken USING NEW.name;
    IF is_taken THEN
        RAISE EXCEPTION 'the name % is taken by another model or alias', NEW.name
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'model_names_apart';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER routing_cataloguemodel_name_free AFTER INSERT OR UPDATE OF name ON routing_cataloguemodel
    FOR EACH ROW EXECUTE FUNCTION routing_refuse_taken_model_name('routing_modelalias');
CREATE TRIGGER routing_modelalias_name_free AFTER INSERT OR UPDATE OF name ON routing_modelalias
    FOR EACH ROW EXECUTE FUNCTION routing_refuse_taken_model_name('routing_cataloguemodel');
"""
REVERSE = """
DROP TRIGGER routing_cataloguemodel_name_free ON routing_cataloguemodel;
DROP TRIGGER routing_modelalias_name_free ON routing_modelalias;
DROP FUNCTION routing_refuse_taken_model_name();
"""


class Migration(migrations.Migration):
    dependencies = [("routing", "0004_model_aliases")]

    operations = [migrations.RunSQL(NAMES_APART, REVERSE)]
