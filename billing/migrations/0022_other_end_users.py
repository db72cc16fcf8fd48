from django.db import migrations, models

_FIELD = {
    "null": True,
    "help_text": "Counted with the key's other end users: more came that day than have counters of their own.",
}


class Migration(migrations.Migration):
    dependencies = [("billing", "0021_failed_attempts")]

    operations = [
        migrations.AddField("usagerecord", "is_other_user", models.BooleanField(**_FIELD)),
        migrations.AddField("usagecorrection", "is_other_user", models.BooleanField(**_FIELD)),
    ]
