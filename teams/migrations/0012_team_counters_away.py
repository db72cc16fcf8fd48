from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("teams", "0011_find_keys")]

    operations = [
        migrations.AddField(
            model_name="team",
            name="counters_away",
            field=models.CharField(
                choices=[
                    ("refuse", "Refuse calls under a hard budget"),
                    ("allow", "Let them in and count them afterwards"),
                ],
                db_default="refuse",
                default="refuse",
                help_text=(
                    "When the store of the counters is down, nothing says how much of a hard budget is left."
                ),
                max_length=16,
                verbose_name="while the counters are away",
            ),
        ),
        migrations.AddConstraint(
            model_name="team",
            constraint=models.CheckConstraint(
                condition=Q(counters_away__in=["refuse", "allow"]), name="team_counters_away_known"
            ),
        ),
    ]
