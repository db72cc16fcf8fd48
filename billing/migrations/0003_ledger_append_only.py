from django.db import migrations

from audit.append_only import append_only
from teams.configuration import announce_changes


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0002_partition_ledger"),
        ("audit", "0002_events_append_only"),
        ("teams", "0002_announce_changes"),
    ]

    operations = [
        append_only("billing_usagerecord"),
        append_only("billing_quarantinedframe"),
        announce_changes("billing_priceentry"),
    ]
