from django.core.validators import RegexValidator
from django.db import migrations, models
from django.db.models import Q

from teams.configuration import announce_changes


class Migration(migrations.Migration):
    dependencies = [("routing", "0003_model_max_output_tokens"), ("teams", "0002_announce_changes")]

    operations = [
        migrations.CreateModel(
            name="ModelAlias",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "name",
                    models.CharField(
                        max_length=128,
                        unique=True,
                        validators=[
                            RegexValidator(
                                "\\A[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}\\Z",
                                "Use letters, digits and . _ : / - (at most 128).",
                            )
                        ],
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "model",
                    models.ForeignKey(
                        on_delete=models.deletion.CASCADE, related_name="aliases", to="routing.cataloguemodel"
                    ),
                ),
            ],
            options={
                "ordering": ["name"],
                "verbose_name_plural": "model aliases",
                "constraints": [
                    models.CheckConstraint(
                        condition=Q(name__regex="^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$"),
                        name="modelalias_name_form",
                    )
                ],
            },
        ),
        announce_changes("routing_modelalias"),
    ]
