import django.core.validators
from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("teams", "0013_team_reserve")]

    operations = [
        migrations.AddField(
            model_name="team",
            name="max_queue_s",
            field=models.PositiveSmallIntegerField(
                db_default=0,
                default=0,
                help_text=(
                    "How long a call may wait for room when it is too fast, or when calls under way hold the "
                    "budget. 0: it is refused at once."
                ),
                validators=[django.core.validators.MaxValueValidator(300)],
                verbose_name="longest wait (s)",
            ),
        ),
        migrations.AddField(
            model_name="team",
            name="priority",
            field=models.CharField(
                choices=[("low", "Low"), ("normal", "Normal"), ("high", "High")],
                db_default="normal",
                default="normal",
                help_text=(
                    "Where teams wait for the same limit, of what comes free a team of high priority gets "
                    "four times as much as one of normal priority, and that one four times as much as one of "
                    "low priority."
                ),
                max_length=16,
            ),
        ),
        migrations.AddConstraint(
            model_name="team",
            constraint=models.CheckConstraint(
                condition=Q(max_queue_s__lte=300), name="team_max_queue_s_bounded"
            ),
        ),
        migrations.AddConstraint(
            model_name="team",
            constraint=models.CheckConstraint(
                condition=Q(priority__in=["low", "normal", "high"]), name="team_priority_known"
            ),
        ),
    ]
