import django.core.validators
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0013_announce_list_prices"),
        ("teams", "0011_find_keys"),
    ]

    operations = [
        migrations.CreateModel(
            name="DepartmentEpoch",
            fields=[
                (
                    "department",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="epoch",
                        serialize=False,
                        to="teams.department",
                    ),
                ),
                ("n", models.BigIntegerField()),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("n__gte", 1)), name="departmentepoch_positive")
                ],
            },
        ),
        migrations.CreateModel(
            name="SweptCall",
            fields=[
                ("request_id", models.UUIDField(primary_key=True, serialize=False)),
                ("department_id", models.BigIntegerField()),
                ("at", models.DateTimeField(auto_now_add=True)),
            ],
            options={
                "ordering": ["at"],
                "indexes": [models.Index(fields=["department_id", "at"], name="sweptcall_department")],
            },
        ),
        migrations.CreateModel(
            name="Budget",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "end_user",
                    models.CharField(
                        blank=True,
                        help_text="Empty: the owner's calls as a whole. *: each of its end users. Else one end user, who then has this instead of *.",
                        max_length=200,
                    ),
                ),
                (
                    "model",
                    models.CharField(
                        blank=True, help_text="Only calls of this model. Empty: of all.", max_length=128
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "unit",
                    models.CharField(
                        choices=[("money", "Nano-dollars"), ("tokens", "Tokens of prompt and answer")],
                        max_length=16,
                    ),
                ),
                (
                    "period",
                    models.CharField(
                        choices=[
                            ("hour", "Hour"),
                            ("day", "Day"),
                            ("week", "Week (from Monday)"),
                            ("month", "Month"),
                            ("year", "Year"),
                        ],
                        max_length=16,
                    ),
                ),
                (
                    "amount",
                    models.BigIntegerField(
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(9000000000000000000),
                        ]
                    ),
                ),
                (
                    "is_hard",
                    models.BooleanField(
                        default=True, help_text="A hard budget refuses calls; a soft one only warns."
                    ),
                ),
                (
                    "api_key",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="budgets",
                        to="teams.apikey",
                    ),
                ),
                (
                    "application",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="budgets",
                        to="teams.application",
                    ),
                ),
                (
                    "department",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="budgets",
                        to="teams.department",
                    ),
                ),
                (
                    "team",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="budgets",
                        to="teams.team",
                    ),
                ),
            ],
            options={
                "ordering": ["id"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("api_key__isnull", True),
                                ("application__isnull", True),
                                ("department__isnull", False),
                                ("team__isnull", True),
                            ),
                            models.Q(
                                ("api_key__isnull", True),
                                ("application__isnull", True),
                                ("department__isnull", True),
                                ("team__isnull", False),
                            ),
                            models.Q(
                                ("api_key__isnull", True),
                                ("application__isnull", False),
                                ("department__isnull", True),
                                ("team__isnull", True),
                            ),
                            models.Q(
                                ("api_key__isnull", False),
                                ("application__isnull", True),
                                ("department__isnull", True),
                                ("team__isnull", True),
                            ),
                            _connector="OR",
                        ),
                        name="budget_one_owner",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("unit__in", ["money", "tokens"])), name="budget_unit_known"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("period__in", ["hour", "day", "week", "month", "year"])),
                        name="budget_period_known",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("amount__gte", 1), ("amount__lte", 9000000000000000000)),
                        name="budget_amount_bounded",
                    ),
                    models.UniqueConstraint(
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
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Limit",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "end_user",
                    models.CharField(
                        blank=True,
                        help_text="Empty: the owner's calls as a whole. *: each of its end users. Else one end user, who then has this instead of *.",
                        max_length=200,
                    ),
                ),
                (
                    "model",
                    models.CharField(
                        blank=True, help_text="Only calls of this model. Empty: of all.", max_length=128
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("rpm", "Requests per minute"),
                            ("tpm", "Tokens per minute"),
                            ("concurrency", "Requests at a time"),
                        ],
                        max_length=16,
                    ),
                ),
                (
                    "amount",
                    models.BigIntegerField(
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(100000000000),
                        ]
                    ),
                ),
                (
                    "api_key",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="limits",
                        to="teams.apikey",
                    ),
                ),
                (
                    "application",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="limits",
                        to="teams.application",
                    ),
                ),
                (
                    "department",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="limits",
                        to="teams.department",
                    ),
                ),
                (
                    "team",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="limits",
                        to="teams.team",
                    ),
                ),
            ],
            options={
                "ordering": ["id"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("api_key__isnull", True),
                                ("application__isnull", True),
                                ("department__isnull", False),
                                ("team__isnull", True),
                            ),
                            models.Q(
                                ("api_key__isnull", True),
                                ("application__isnull", True),
                                ("department__isnull", True),
                                ("team__isnull", False),
                            ),
                            models.Q(
                                ("api_key__isnull", True),
                                ("application__isnull", False),
                                ("department__isnull", True),
                                ("team__isnull", True),
                            ),
                            models.Q(
                                ("api_key__isnull", False),
                                ("application__isnull", True),
                                ("department__isnull", True),
                                ("team__isnull", True),
                            ),
                            _connector="OR",
                        ),
                        name="limit_one_owner",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("kind__in", ["rpm", "tpm", "concurrency"])),
                        name="limit_kind_known",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("amount__gte", 1), ("amount__lte", 100000000000)),
                        name="limit_amount_bounded",
                    ),
                    models.UniqueConstraint(
                        fields=("department", "team", "application", "api_key", "end_user", "model", "kind"),
                        name="limit_once",
                        nulls_distinct=False,
                    ),
                ],
            },
        ),
    ]
