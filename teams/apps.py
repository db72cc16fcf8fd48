"""Django's registration of the app."""

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_delete, post_save


class TeamsConfig(AppConfig):
    """See the package's docstring for what lives here."""

    name = "teams"
    verbose_name = "Teams"

    def ready(self) -> None:
        """Announce what pages change of the rows that known keys depend on; key services announce by themselves."""
        from teams.announcements import announce_key_change

        def announce(**_: Any) -> None:
            announce_key_change()

        for name in ("Department", "Team", "Application"):
            for signal in (post_save, post_delete):
                signal.connect(
                    announce, sender=self.get_model(name), weak=False, dispatch_uid="announce_key_change"
                )
