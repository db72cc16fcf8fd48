import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("teams", "0003_key_application_same_team"),
    ]

    operations = [
        migrations.AddField(
            model_name="apikey",
            name="allowed_models",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=128),
                blank=True,
                db_default=[],
                default=list,
                help_text="Models it may use. Empty: all that the team is granted.",
                size=None,
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="ip_ranges",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=43),
                blank=True,
                db_default=[],
                default=list,
                help_text="Where it may be used from, as CIDR. Empty: anywhere.",
                size=None,
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="paused_at",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AddField(
            model_name="apikey",
            name="replaces",
            field=models.OneToOneField(
                blank=True,
                editable=False,
                help_text="The key this one was rotated from.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="replacement",
                to="teams.apikey",
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="revoked_reason",
            field=models.CharField(blank=True, db_default="", default="", editable=False, max_length=500),
        ),
        migrations.AddField(
            model_name="apikey",
            name="scopes",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=16),
                blank=True,
                db_default=[],
                default=list,
                help_text="Endpoints it may call. Empty: all.",
                size=None,
            ),
        ),
        migrations.AddConstraint(
            model_name="apikey",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    (
                        "scopes__contained_by",
                        ["chat", "completions", "embeddings", "models", "responses", "messages"],
                    )
                ),
                name="apikey_scopes_known",
            ),
        ),
        migrations.AddConstraint(
            model_name="apikey",
            constraint=models.CheckConstraint(
                condition=models.Q(("allowed_models__len__lte", 100), ("ip_ranges__len__lte", 100)),
                name="apikey_rules_bounded",
            ),
        ),
        migrations.AddConstraint(
            model_name="apikey",
            constraint=models.CheckConstraint(
                condition=models.Q(("revoked_reason", ""), ("revoked_at__isnull", False), _connector="OR"),
                name="apikey_reason_of_a_revocation",
            ),
        ),
    ]
