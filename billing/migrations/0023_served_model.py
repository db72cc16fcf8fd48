from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0022_other_end_users")]

    operations = [
        migrations.AddField(
            "usagerecord",
            "served_model",
            models.CharField(
                blank=True,
                help_text="The model that served in its place, where another did.",
                max_length=128,
                null=True,
            ),
        )
    ]
