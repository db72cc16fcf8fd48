"""Django's registration of the app."""

from django.apps import AppConfig


class BillingConfig(AppConfig):
    """See the package's docstring for what lives here."""

    name = "billing"
    verbose_name = "Billing"
