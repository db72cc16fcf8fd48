from django.db import migrations

from teams.key_change_log import log_key_changes


class Migration(migrations.Migration):
    dependencies = [("teams", "0007_key_changes")]

    operations = log_key_changes()
