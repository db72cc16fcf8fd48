from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    """Indexes for the administration's list of keys, made without locking the table."""

    atomic = False
    dependencies = [("teams", "0010_keep_a_platform_admin")]

    operations = [
        AddIndexConcurrently("apikey", models.Index(fields=["hint"], name="apikey_hint")),
        AddIndexConcurrently("apikey", models.Index(fields=["name", "-id"], name="apikey_name")),
        AddIndexConcurrently("apikey", models.Index(fields=["expires_at", "-id"], name="apikey_expires_at")),
    ]
