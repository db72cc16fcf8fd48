"""Django's registration of the app."""

from django.apps import AppConfig
from django.db.models.signals import post_save


class BillingConfig(AppConfig):
    """See the package's docstring for what lives here."""

    name = "billing"
    verbose_name = "Billing"

    def ready(self) -> None:
        """Keep the rules of keys through rotations."""
        from billing.rotated_keys import copy_rules

        post_save.connect(copy_rules, sender="teams.ApiKey", dispatch_uid="copy_rules")
