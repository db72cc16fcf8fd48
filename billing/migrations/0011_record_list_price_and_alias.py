from django.db import migrations, models


class Migration(migrations.Migration):
    """Both may be null: records of the previous release, which may still be in spools, have neither."""

    dependencies = [("billing", "0010_list_prices")]

    operations = [
        migrations.AddField(
            model_name="usagerecord",
            name="list_price_id",
            field=models.BigIntegerField(help_text="The list price that was charged instead.", null=True),
        ),
        migrations.AddField(
            model_name="usagerecord",
            name="model_alias",
            field=models.CharField(
                help_text="The name asked for, where it is an alias of the model.", max_length=128, null=True
            ),
        ),
        migrations.AlterField(
            model_name="usagerecord",
            name="price_entry_id",
            field=models.BigIntegerField(help_text="The backend's own price that was charged.", null=True),
        ),
    ]
