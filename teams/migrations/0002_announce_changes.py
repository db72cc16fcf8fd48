from django.db import migrations

from teams.configuration import CREATE_FUNCTION, announce_changes


class Migration(migrations.Migration):
    dependencies = [("teams", "0001_initial")]

    operations = [
        CREATE_FUNCTION,
        announce_changes("teams_department"),
        announce_changes("teams_team"),
        announce_changes("teams_application"),
        announce_changes("teams_apikey"),
    ]
