from django.db import migrations, models


class Migration(migrations.Migration):
    """Backends can be drained. The database fills the column for writers of the previous release."""

    dependencies = [("routing", "0006_backend_list_price")]

    operations = [
        migrations.AddField(
            model_name="backend",
            name="is_draining",
            field=models.BooleanField(
                default=False,
                db_default=False,
                help_text="A draining backend gets no new calls; those under way end as usual.",
            ),
        )
    ]
