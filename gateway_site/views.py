"""The landing page."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from teams.models import PLATFORM_ROLES
from teams.permissions import access_of
from teams.queries import list_memberships
from teams.roles import Action


@require_safe
@never_cache
def landing(request: HttpRequest) -> HttpResponse:
    """What this is, where to go, and who you are here."""
    memberships = list_memberships(request.user) if request.user.is_authenticated else []
    context = {
        "memberships": memberships,
        "may_administer": access_of(request.user).may(Action.ADMINISTRATION_ENTER),
        "has_other_role": any(member.role not in PLATFORM_ROLES for member in memberships),
        "health_path": "/readyz",  # answered by gateway_site/operations.py, so no URL of Django's
        "base_url": request.build_absolute_uri("/v1"),
    }
    return render(request, "site/landing.html", context)
