from django.db import migrations

from teams.configuration import announce_changes


class Migration(migrations.Migration):
    dependencies = [("routing", "0001_initial"), ("teams", "0002_announce_changes")]

    operations = [
        announce_changes("routing_cataloguemodel"),
        announce_changes("routing_backend"),
        announce_changes("routing_route"),
        announce_changes("routing_grant"),
    ]
