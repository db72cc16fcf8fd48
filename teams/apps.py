"""Django's registration of the app."""

from django.apps import AppConfig


class TeamsConfig(AppConfig):
    """See the package's docstring for what lives here."""

    name = "teams"
    verbose_name = "Teams"
