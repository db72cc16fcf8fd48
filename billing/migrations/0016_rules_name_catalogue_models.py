import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

# A name that was no model's counted nothing, and would count everything without one. No release had such rules.
# The way back drops the rules of models too: their names are in a column that goes.
DROP_RULES_OF_MODELS = "DELETE FROM billing_limit WHERE model_id IS NOT NULL; DELETE FROM billing_budget WHERE model_id IS NOT NULL"
NO_RULES_OF_MODELS = (
    "DELETE FROM billing_limit WHERE model <> ''; DELETE FROM billing_budget WHERE model <> ''"
)


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0015_department_epochs"),
        ("routing", "0007_drain_backends"),
        ("teams", "0011_find_keys"),
    ]

    operations = [
        migrations.RunSQL(NO_RULES_OF_MODELS, migrations.RunSQL.noop),
        migrations.RemoveConstraint(model_name="budget", name="budget_once"),
        migrations.RemoveField(model_name="budget", name="model"),
        migrations.AddField(
            model_name="budget",
            name="model",
            field=models.ForeignKey(
                blank=True,
                help_text="Only calls of this model, also by its aliases. Empty: of all models.",
                null=True,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="+",
                to="routing.cataloguemodel",
                to_field="name",
            ),
        ),
        migrations.RemoveConstraint(model_name="limit", name="limit_once"),
        migrations.RemoveField(model_name="limit", name="model"),
        migrations.AddField(
            model_name="limit",
            name="model",
            field=models.ForeignKey(
                blank=True,
                help_text="Only calls of this model, also by its aliases. Empty: of all models.",
                null=True,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="+",
                to="routing.cataloguemodel",
                to_field="name",
            ),
        ),
        migrations.AddConstraint(
            model_name="budget",
            constraint=models.UniqueConstraint(
                fields=(
                    "department",
                    "team",
                    "application",
                    "api_key",
                    "end_user",
                    "model",
                    "unit",
                    "period",
                ),
                name="budget_once",
                nulls_distinct=False,
                violation_error_message="There is a budget like this already: change its amount.",
            ),
        ),
        migrations.AddConstraint(
            model_name="limit",
            constraint=models.UniqueConstraint(
                fields=("department", "team", "application", "api_key", "end_user", "model", "kind"),
                name="limit_once",
                nulls_distinct=False,
                violation_error_message="There is a limit like this already: change its amount.",
            ),
        ),
        migrations.AlterField(
            model_name="budget",
            name="amount",
            field=models.BigIntegerField(
                validators=[
                    django.core.validators.MinValueValidator(1),
                    django.core.validators.MaxValueValidator(9000000000000000000),
                ],
                verbose_name="at most",
            ),
        ),
        migrations.AlterField(
            model_name="budget",
            name="api_key",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="budgets",
                to="teams.apikey",
                verbose_name="API key",
            ),
        ),
        migrations.AlterField(
            model_name="budget",
            name="end_user",
            field=models.CharField(
                blank=True,
                help_text="Empty: the owner's calls as a whole. *: each of its end users. Else the one end user of that name, who then has this instead of what holds for *.",
                max_length=200,
                validators=[
                    django.core.validators.RegexValidator(
                        "[\\u0001-\\u001F\\u007F-\\u009F\\u061C\\u200E\\u200F\\u2028-\\u202E\\u2066-\\u2069]",
                        "Control characters and characters that turn the direction are not allowed.",
                        inverse_match=True,
                    )
                ],
            ),
        ),
        migrations.AlterField(
            model_name="budget",
            name="is_hard",
            field=models.BooleanField(
                default=True,
                help_text="A hard budget refuses calls; a soft one only warns.",
                verbose_name="hard",
            ),
        ),
        migrations.AlterField(
            model_name="budget",
            name="period",
            field=models.CharField(
                choices=[
                    ("hour", "hour"),
                    ("day", "day"),
                    ("week", "week (from Monday)"),
                    ("month", "month"),
                    ("year", "year"),
                ],
                max_length=16,
            ),
        ),
        migrations.AlterField(
            model_name="budget",
            name="unit",
            field=models.CharField(
                choices=[("money", "US dollars"), ("tokens", "tokens of prompts and answers")],
                max_length=16,
                verbose_name="what it counts",
            ),
        ),
        migrations.AlterField(
            model_name="limit",
            name="amount",
            field=models.BigIntegerField(
                help_text="A whole number.",
                validators=[
                    django.core.validators.MinValueValidator(1),
                    django.core.validators.MaxValueValidator(100000000000),
                ],
                verbose_name="at most",
            ),
        ),
        migrations.AlterField(
            model_name="limit",
            name="api_key",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="limits",
                to="teams.apikey",
                verbose_name="API key",
            ),
        ),
        migrations.AlterField(
            model_name="limit",
            name="end_user",
            field=models.CharField(
                blank=True,
                help_text="Empty: the owner's calls as a whole. *: each of its end users. Else the one end user of that name, who then has this instead of what holds for *.",
                max_length=200,
                validators=[
                    django.core.validators.RegexValidator(
                        "[\\u0001-\\u001F\\u007F-\\u009F\\u061C\\u200E\\u200F\\u2028-\\u202E\\u2066-\\u2069]",
                        "Control characters and characters that turn the direction are not allowed.",
                        inverse_match=True,
                    )
                ],
            ),
        ),
        migrations.AlterField(
            model_name="limit",
            name="kind",
            field=models.CharField(
                choices=[
                    ("rpm", "requests per minute"),
                    ("tpm", "tokens per minute"),
                    ("concurrency", "requests at a time"),
                ],
                max_length=16,
                verbose_name="what it counts",
            ),
        ),
        migrations.AddConstraint(
            model_name="budget",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    (
                        "end_user__regex",
                        "[\\u0001-\\u001F\\u007F-\\u009F\\u061C\\u200E\\u200F\\u2028-\\u202E\\u2066-\\u2069]",
                    ),
                    _negated=True,
                ),
                name="budget_end_user_plain",
            ),
        ),
        migrations.AddConstraint(
            model_name="limit",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    (
                        "end_user__regex",
                        "[\\u0001-\\u001F\\u007F-\\u009F\\u061C\\u200E\\u200F\\u2028-\\u202E\\u2066-\\u2069]",
                    ),
                    _negated=True,
                ),
                name="limit_end_user_plain",
            ),
        ),
        migrations.RunSQL(migrations.RunSQL.noop, DROP_RULES_OF_MODELS),
    ]
