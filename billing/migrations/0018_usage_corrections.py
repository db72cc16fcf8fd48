from django.db import migrations, models
from django.db.models import F, Q
from django.db.models.functions import Now

from audit.append_only import append_only

FINAL = ["completed", "refused", "failed", "client_left"]
ENDED = "abandoned_call_ended"


class Migration(migrations.Migration):
    dependencies = [("billing", "0017_epochs_only_rise")]

    operations = [
        migrations.CreateModel(
            name="UsageCorrection",
            fields=[
                ("request_id", models.UUIDField(primary_key=True, serialize=False)),
                ("spool", models.UUIDField()),
                ("seq", models.BigIntegerField()),
                ("at", models.DateTimeField(db_default=Now())),
                (
                    "reason",
                    models.CharField(
                        choices=[(ENDED, "The worker told later how the call ended")], max_length=64
                    ),
                ),
                (
                    "status",
                    models.CharField(
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
                ("admitted_at", models.DateTimeField()),
                ("department_id", models.BigIntegerField(null=True)),
                ("team_id", models.BigIntegerField(null=True)),
                ("application_id", models.BigIntegerField(null=True)),
                ("api_key_id", models.BigIntegerField(null=True)),
                ("end_user", models.CharField(blank=True, max_length=200)),
                ("model", models.CharField(blank=True, max_length=128)),
                ("input_tokens", models.BigIntegerField()),
                ("cached_input_tokens", models.BigIntegerField()),
                ("cache_write_tokens", models.BigIntegerField()),
                ("output_tokens", models.BigIntegerField()),
                ("reasoning_tokens", models.BigIntegerField()),
                ("input_cost_nanousd", models.BigIntegerField()),
                ("cached_input_cost_nanousd", models.BigIntegerField()),
                ("cache_write_cost_nanousd", models.BigIntegerField()),
                ("output_cost_nanousd", models.BigIntegerField()),
                ("cost_nanousd", models.BigIntegerField()),
            ],
            options={
                "ordering": ["-request_id"],
                "indexes": [models.Index(fields=["team_id", "-request_id"], name="usagecorrection_team")],
                "constraints": [
                    models.CheckConstraint(
                        condition=Q(
                            cost_nanousd=F("input_cost_nanousd")
                            + F("cached_input_cost_nanousd")
                            + F("cache_write_cost_nanousd")
                            + F("output_cost_nanousd")
                        ),
                        name="usagecorrection_cost_is_sum",
                    ),
                    models.CheckConstraint(
                        condition=Q(reason__in=[ENDED]), name="usagecorrection_reason_known"
                    ),
                    models.CheckConstraint(
                        condition=Q(status__in=FINAL), name="usagecorrection_status_final"
                    ),
                ],
            },
        ),
        append_only("billing_usagecorrection"),
    ]
