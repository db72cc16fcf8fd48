"""The landing page, and the administration's page for one's own password."""

from django.contrib import admin
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from audit.admin_trail import actor_of, lock_facts, record_change
from teams.models import PLATFORM_ROLES
from teams.queries import list_memberships


@require_safe
@never_cache
def landing(request: HttpRequest) -> HttpResponse:
    """What this is, where to go, and who you are here."""
    memberships = list_memberships(request.user) if request.user.is_authenticated else []
    context = {
        "memberships": memberships,
        "has_platform_role": any(member.role in PLATFORM_ROLES for member in memberships),
        "has_other_role": any(member.role not in PLATFORM_ROLES for member in memberships),
        "health_path": "/readyz",  # answered by gateway_site/operations.py, so no URL of Django's
        "base_url": request.build_absolute_uri("/v1"),
    }
    return render(request, "site/landing.html", context)


@transaction.atomic
def password_change(request: HttpRequest) -> HttpResponse:
    """The administration's own page, with an event for the change."""
    user = request.user if request.method == "POST" and request.user.is_authenticated else None
    before = lock_facts(user) if user is not None else None
    response = admin.site.password_change(request)
    if user is not None and before is not None:
        record_change(actor_of(request), user, before)
    return response
