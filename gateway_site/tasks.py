"""Celery tasks of the site: each calls the service of the same name."""

from celery import shared_task
from django.core.management import call_command

from gateway_site import celery_life


@shared_task  # type: ignore[untyped-decorator]
def show_sign_of_life() -> None:
    """Beat sent this and a worker took it: both live."""
    celery_life.show_sign_of_life()


@shared_task  # type: ignore[untyped-decorator]
def clear_sessions() -> None:
    """Delete the sessions that have expired."""
    call_command("clearsessions")
