from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("routing", "0005_model_names_apart")]

    operations = [
        migrations.AddField(
            model_name="backend",
            name="list_price_provider",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="A provider of the list prices, such as openai: its price holds while the backend has no own. Empty: own prices only.",
                max_length=64,
            ),
        ),
        migrations.AddField(
            model_name="backend",
            name="list_price_model",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="Its name in the list prices. Empty: as the upstream model.",
                max_length=128,
            ),
        ),
        migrations.AddConstraint(
            model_name="backend",
            constraint=models.CheckConstraint(
                condition=~Q(list_price_provider="") | Q(list_price_model=""),
                name="backend_list_price_has_provider",
                violation_error_message="A model of the list prices needs its provider.",
            ),
        ),
    ]
