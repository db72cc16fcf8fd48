"""The administration: for roles of the whole platform, in sections, behind the portal's one sign-in page."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from django.contrib.admin import AdminSite
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.contrib.auth.views import LogoutView, redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache

from teams.permissions import access_of
from teams.roles import Action


class Section(NamedTuple):
    """A part of the administration's index: its name and its models, in the order shown."""

    slug: str
    name: str
    models: tuple[str, ...]


SECTIONS = (
    Section(
        "people",
        "People",
        ("auth.user", "teams.member", "teams.department", "teams.team", "teams.application"),
    ),
    Section("keys", "API keys", ("teams.apikey",)),
    Section("catalogue", "Catalogue", ("routing.cataloguemodel", "routing.grant")),
    Section("backends", "Backends and routes", ("routing.backend", "routing.route")),
    Section("limits", "Limits and budgets", ("billing.limit", "billing.budget")),
    Section("guards", "Guards", ("guards.guardpolicy", "guards.recogniser", "guards.externalguard")),
    Section("prices", "Prices", ("billing.priceentry", "billing.listprice")),
    Section(
        "ledger",
        "Ledger",
        (
            "billing.usagerecord",
            "billing.usagecorrection",
            "billing.spool",
            "billing.quarantinedframe",
        ),
    ),
    Section("trail", "Administration trail", ("audit.adminevent",)),
)


class GatewayAdminSite(AdminSite):
    """Django's administration with our sections, our sign-in, and entry by role instead of a staff flag."""

    site_title = "LLM gateway"
    site_header = "LLM gateway administration"
    index_title = "Administration"
    site_url = "/"

    def has_permission(self, request: HttpRequest) -> bool:
        """Whether a role of the platform admits this person."""
        return access_of(request.user).may(Action.ADMINISTRATION_ENTER)

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        """The sections with what may be seen of them; for one app's own page, Django's list."""
        if app_label is not None:
            return super().get_app_list(request, app_label)
        shown = {
            f"{label}.{model['object_name'].lower()}": model
            for label, app in self._build_app_dict(request).items()
            for model in app["models"]
        }
        filled = (
            (section, [shown[name] for name in section.models if name in shown]) for section in SECTIONS
        )
        return [_as_app(section, models) for section, models in filled if models]

    @method_decorator(never_cache)
    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Lead to the one place where passwords are entered; who is signed in without a right is told so."""
        if self.has_permission(request):
            return HttpResponseRedirect(reverse("admin:index"))
        if request.user.is_authenticated:
            raise PermissionDenied
        wanted = request.GET.get(REDIRECT_FIELD_NAME) or reverse("admin:index")
        return redirect_to_login(wanted, reverse("login"))

    def logout(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """As everywhere."""
        return LogoutView.as_view()(request)

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """On the page that everybody has."""
        return HttpResponseRedirect(reverse("password_change"))


def _as_app(section: Section, models: Iterable[Any]) -> dict[str, Any]:
    return {
        "name": section.name,
        "app_label": section.slug,
        "app_url": f"{reverse('admin:index')}#section-{section.slug}",
        "has_module_perms": True,
        "models": list(models),
    }
