from django.db import migrations

FUNCTION = """
-- A price that has been in force is what the ledger was charged by. Its arguments are columns that may change.
CREATE FUNCTION billing_refuse_past_price_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    free_columns text[] := coalesce(TG_ARGV, '{}');
BEGIN
    IF OLD.effective_from <= now()
        AND (TG_OP = 'DELETE' OR to_jsonb(OLD) - free_columns IS DISTINCT FROM to_jsonb(NEW) - free_columns)
    THEN
        RAISE EXCEPTION 'a price in force since % is not changed: add a later one', OLD.effective_from
            USING ERRCODE = 'check_violation', CONSTRAINT = 'past_price_stays';
    END IF;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END $$;
"""


def keep_past_prices(table: str, *free_columns: str) -> migrations.RunSQL:
    """A trigger that lets nobody change or delete a price in force, but for `free_columns`."""
    arguments = ", ".join(f"'{column}'" for column in free_columns)
    return migrations.RunSQL(
        f"CREATE TRIGGER {table}_past_stays BEFORE UPDATE OR DELETE ON {table}"
        f" FOR EACH ROW EXECUTE FUNCTION billing_refuse_past_price_change({arguments});",
        f"DROP TRIGGER {table}_past_stays ON {table};",
    )


class Migration(migrations.Migration):
    dependencies = [("billing", "0011_record_list_price_and_alias")]

    operations = [
        migrations.RunSQL(FUNCTION, "DROP FUNCTION billing_refuse_past_price_change();"),
        keep_past_prices("billing_priceentry"),
        keep_past_prices(
            "billing_listprice",
            "mode",
            "max_input_tokens",
            "max_output_tokens",
            "vision",
            "tools",
            "deprecation_date",
        ),
    ]
