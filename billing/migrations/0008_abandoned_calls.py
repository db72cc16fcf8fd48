from django.db import migrations, models
from django.db.models import Q

BEFORE = ["completed", "refused", "failed", "client_left"]
NOW = [*BEFORE, "abandoned"]


class Migration(migrations.Migration):
    dependencies = [("billing", "0003_ledger_append_only")]

    operations = [
        migrations.AlterField(
            model_name="usagerecord",
            name="status",
            field=models.CharField(
                choices=[
                    ("completed", "Completed"),
                    ("refused", "Refused by the gateway"),
                    ("failed", "Failed at the backend"),
                    ("client_left", "The client left"),
                    ("abandoned", "The gateway's process died during the call"),
                ],
                max_length=16,
            ),
        ),
        migrations.RemoveConstraint("usagerecord", "usagerecord_status_known"),
        migrations.AddConstraint(
            "usagerecord",
            models.CheckConstraint(condition=Q(status__in=NOW), name="usagerecord_status_known"),
        ),
    ]
