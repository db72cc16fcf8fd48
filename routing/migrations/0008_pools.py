from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import migrations, models
from django.db.models import Q

STRATEGIES = [
    ("weighted", "At random, by weight"),
    ("round_robin", "In turn, by weight"),
    ("least_busy", "The one with the fewest calls under way, by weight"),
    ("latency", "The faster of two drawn by weight"),
    ("cost", "The cheapest"),
]


class Migration(migrations.Migration):
    dependencies = [("routing", "0007_drain_backends")]

    operations = [
        migrations.AddField(
            "cataloguemodel",
            "strategy",
            models.CharField(
                max_length=16,
                choices=STRATEGIES,
                default="weighted",
                db_default="weighted",
                help_text="Which of several backends of the same priority a call goes to.",
            ),
        ),
        migrations.AddConstraint(
            "cataloguemodel",
            models.CheckConstraint(
                condition=Q(strategy__in=[value for value, _ in STRATEGIES]),
                name="cataloguemodel_strategy_known",
            ),
        ),
        migrations.AddField(
            "route",
            "weight",
            models.PositiveSmallIntegerField(
                default=100,
                db_default=100,
                validators=[MinValueValidator(1), MaxValueValidator(1000)],
                help_text="Its part of the calls among backends of the same priority, 1 to 1000.",
            ),
        ),
        migrations.AlterField(
            "route",
            "priority",
            models.PositiveSmallIntegerField(
                default=1, help_text="Lower comes first. Those of the same priority share the calls."
            ),
        ),
        migrations.AddConstraint(
            "route",
            models.CheckConstraint(condition=Q(weight__gte=1, weight__lte=1000), name="route_weight_bounded"),
        ),
        migrations.AddField(
            "backend",
            "longest_trip_s",
            models.PositiveIntegerField(
                default=300,
                db_default=300,
                validators=[MaxValueValidator(86400)],
                help_text="A backend that fails, or says that it throttles, is left alone for a while, at most so long. "
                "0: it is always called.",
            ),
        ),
        migrations.AddConstraint(
            "backend",
            models.CheckConstraint(
                condition=Q(longest_trip_s__lte=86400), name="backend_longest_trip_bounded"
            ),
        ),
    ]
