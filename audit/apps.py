"""Django's registration of the app."""

from django.apps import AppConfig


class AuditConfig(AppConfig):
    """See the package's docstring for what lives here."""

    name = "audit"
    verbose_name = "Audit"
