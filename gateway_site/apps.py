"""The project as an app: it carries commands, system checks and the grants that follow every migration."""

import logging

from django.apps import AppConfig, apps
from django.contrib.admin.apps import AdminConfig
from django.contrib.auth.apps import AuthConfig
from django.db.models.signals import post_migrate


class GatewaySiteConfig(AppConfig):
    """See the package's docstring for what lives here."""

    name = "gateway_site"
    verbose_name = "Gateway"

    def ready(self) -> None:
        """Connect the grants and register the checks."""
        from gateway_site import checks  # noqa: F401
        from gateway_site.grants import grant_runtime_role

        logging.captureWarnings(True)  # so that every line of the log has the one form
        # Django sends post_migrate for apps with models only, after all tables exist: once is enough.
        last = apps.get_app_config("routing")
        post_migrate.connect(grant_runtime_role, sender=last, dispatch_uid="grant_runtime_role")


class GatewayAdminConfig(AdminConfig):
    """Django's administration with our site, so that `admin.register` registers there."""

    default_site = "gateway_site.admin_site.GatewayAdminSite"


class PeopleConfig(AuthConfig):
    """Django's accounts, under the name that the administration's pages give them."""

    verbose_name = "People"
