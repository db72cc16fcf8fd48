"""Draining: a backend is taken out of service without cutting a call off; each change with its event."""

from django.db import transaction

from audit.services import record_event
from routing.models import Backend


def drain_backend(backend: Backend, *, actor: str) -> bool:
    """Give a backend no new calls; those under way end as usual. Returns False when it was draining before."""
    return _set_draining(backend, True, "backend.drain", actor)


def undrain_backend(backend: Backend, *, actor: str) -> bool:
    """Give a backend calls again. Returns False when it was not draining."""
    return _set_draining(backend, False, "backend.undrain", actor)


@transaction.atomic
def _set_draining(backend: Backend, is_draining: bool, action: str, actor: str) -> bool:
    if not Backend.objects.filter(pk=backend.pk, is_draining=not is_draining).update(is_draining=is_draining):
        return False
    backend.is_draining = is_draining
    before, after = {"is_draining": not is_draining}, {"is_draining": is_draining}
    record_event(actor, action, backend, before=before, after=after)
    return True
