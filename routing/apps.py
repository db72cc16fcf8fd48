"""Django's registration of the app."""

from django.apps import AppConfig


class RoutingConfig(AppConfig):
    """See the package's docstring for what lives here."""

    name = "routing"
    verbose_name = "Routing"
