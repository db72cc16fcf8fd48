from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("teams", "0006_key_use"),
    ]

    operations = [
        migrations.CreateModel(
            name="KeyChange",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("kind", models.CharField(max_length=16)),
                ("object_id", models.BigIntegerField(null=True)),
                ("xact", models.BigIntegerField(db_index=True)),
                ("at", models.DateTimeField()),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("kind__in", ["created", "everything"]), ("object_id", None)),
                            models.Q(("kind__in", ["key", "team"]), ("object_id__isnull", False)),
                            _connector="OR",
                        ),
                        name="keychange_object_fits_kind",
                    )
                ],
            },
        ),
    ]
