from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("billing", "0008_abandoned_calls")]

    operations = [
        migrations.AddField(
            model_name="usagerecord",
            name="requests",
            field=models.PositiveIntegerField(
                default=1,
                db_default=1,
                help_text="How many like refusals this row stands for; 1 for all else.",
            ),
        ),
        migrations.AddConstraint(
            "usagerecord",
            models.CheckConstraint(
                condition=Q(requests=1) | Q(requests__gt=1, status="refused"),
                name="usagerecord_only_refusals_in_bulk",
            ),
        ),
    ]
