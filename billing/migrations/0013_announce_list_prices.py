from django.db import migrations

from teams.configuration import announce_changes


class Migration(migrations.Migration):
    dependencies = [("billing", "0012_past_prices_stay"), ("teams", "0002_announce_changes")]

    operations = [announce_changes("billing_listprice")]
