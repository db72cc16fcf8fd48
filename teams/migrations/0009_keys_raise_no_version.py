from django.db import migrations

from teams.configuration import announce_changes

_ANNOUNCE = announce_changes("teams_apikey")


class Migration(migrations.Migration):
    """Keys have a log of their own: a new one no longer makes every worker load the whole configuration.

    Workers of the release before would hear of no revocation any more; there is no such release.
    """

    dependencies = [("teams", "0008_log_key_changes")]

    operations = [migrations.RunSQL(_ANNOUNCE.reverse_sql, _ANNOUNCE.sql)]
