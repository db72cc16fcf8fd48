"""Django's registration of the app."""

from django.apps import AppConfig


class GuardsConfig(AppConfig):
    """See the package's docstring for what lives here."""

    name = "guards"
    verbose_name = "Guards"
