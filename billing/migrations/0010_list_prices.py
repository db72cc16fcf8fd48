from decimal import Decimal

from django.core.validators import MinValueValidator
from django.db import migrations, models
from django.db.models import Q


def price(help_text: str = "USD per million tokens.", **options: bool) -> models.DecimalField:
    return models.DecimalField(
        decimal_places=9,
        max_digits=18,
        validators=[MinValueValidator(Decimal(0))],
        help_text=help_text,
        **options,
    )


class Migration(migrations.Migration):
    dependencies = [("billing", "0009_refusals_in_bulk")]

    operations = [
        migrations.CreateModel(
            name="ListPrice",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "provider",
                    models.CharField(help_text="For example openai, azure, anthropic.", max_length=64),
                ),
                ("model", models.CharField(help_text="The provider's name of the model.", max_length=128)),
                ("effective_from", models.DateTimeField()),
                (
                    "mode",
                    models.CharField(
                        choices=[
                            ("chat", "Chat"),
                            ("completion", "Completion"),
                            ("embedding", "Embedding"),
                            ("responses", "Responses"),
                        ],
                        max_length=16,
                    ),
                ),
                ("input_usd_per_million", price()),
                (
                    "cached_input_usd_per_million",
                    price("USD per million tokens. Empty: as input.", blank=True, null=True),
                ),
                (
                    "cache_write_usd_per_million",
                    price("USD per million tokens. Empty: as input.", blank=True, null=True),
                ),
                ("output_usd_per_million", price()),
                ("max_input_tokens", models.PositiveIntegerField(blank=True, null=True)),
                ("max_output_tokens", models.PositiveIntegerField(blank=True, null=True)),
                ("vision", models.BooleanField(default=False, help_text="Takes images.")),
                ("tools", models.BooleanField(default=False, help_text="Calls tools.")),
                (
                    "deprecation_date",
                    models.DateField(blank=True, help_text="When the provider withdraws it.", null=True),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
            ],
            options={
                "ordering": ["provider", "model", "-effective_from"],
                "constraints": [
                    models.UniqueConstraint(
                        fields=["provider", "model", "effective_from"], name="listprice_one_at_a_time"
                    ),
                    models.CheckConstraint(
                        condition=Q(input_usd_per_million__gte=0, output_usd_per_million__gte=0)
                        & (Q(cached_input_usd_per_million=None) | Q(cached_input_usd_per_million__gte=0))
                        & (Q(cache_write_usd_per_million=None) | Q(cache_write_usd_per_million__gte=0)),
                        name="listprice_not_negative",
                    ),
                    models.CheckConstraint(
                        condition=(Q(max_input_tokens=None) | Q(max_input_tokens__gte=1))
                        & (Q(max_output_tokens=None) | Q(max_output_tokens__gte=1)),
                        name="listprice_tokens_positive",
                    ),
                    models.CheckConstraint(
                        condition=Q(mode__in=["chat", "completion", "embedding", "responses"]),
                        name="listprice_mode_known",
                    ),
                    models.CheckConstraint(
                        condition=~Q(provider="") & ~Q(model=""), name="listprice_names_given"
                    ),
                ],
            },
        )
    ]
