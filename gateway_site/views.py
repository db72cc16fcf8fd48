"""The landing page."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from teams.queries import list_memberships


@require_safe
def landing(request: HttpRequest) -> HttpResponse:
    """What this is, where to go, and who you are here."""
    memberships = list_memberships(request.user) if request.user.is_authenticated else []
    context = {"memberships": memberships, "base_url": request.build_absolute_uri("/v1")}
    return render(request, "site/landing.html", context)
