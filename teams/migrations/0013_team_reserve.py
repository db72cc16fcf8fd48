from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("teams", "0012_team_counters_away")]

    operations = [
        migrations.AddField(
            model_name="team",
            name="reserve",
            field=models.CharField(
                choices=[
                    ("most", "The most that a call may come to"),
                    ("typical", "Of streams 1,000 tokens of answer at a time"),
                ],
                db_default="most",
                default="most",
                help_text=(
                    "Less for each call lets more run at once; a stream ends early when the budget does."
                ),
                max_length=16,
                verbose_name="what calls hold",
            ),
        ),
        migrations.AddConstraint(
            model_name="team",
            constraint=models.CheckConstraint(
                condition=Q(reserve__in=["most", "typical"]), name="team_reserve_known"
            ),
        ),
    ]
