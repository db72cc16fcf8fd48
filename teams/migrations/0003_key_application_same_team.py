from django.db import migrations


class Migration(migrations.Migration):
    """A key's application must be one of the key's team. Django has no composite foreign keys, SQL has."""

    dependencies = [("teams", "0002_announce_changes")]

    operations = [
        migrations.RunSQL(
            """
            ALTER TABLE teams_apikey ADD CONSTRAINT apikey_application_same_team
                FOREIGN KEY (application_id, team_id) REFERENCES teams_application (id, team_id);
            """,
            "ALTER TABLE teams_apikey DROP CONSTRAINT apikey_application_same_team;",
        )
    ]
