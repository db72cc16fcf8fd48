from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0020_default_partition_is_emptied")]

    operations = [
        migrations.AddField(
            "usagerecord",
            "failed_attempts",
            models.JSONField(
                null=True,
                help_text="The calls after which another was made, with what each may have used and cost.",
            ),
        ),
        migrations.AlterField(
            "usagerecord",
            "attempts",
            models.PositiveSmallIntegerField(
                help_text="Calls to backends; tokens and cost are of all of them."
            ),
        ),
    ]
