"""Administration pages of the catalogue, grants, routes and backends."""

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.db.models import Q
from django.http import HttpRequest

from audit.admin_trail import AuditedAdmin
from billing.models import PriceEntry
from outbound.credential_form import SECRETS, CredentialForm
from routing.draining import drain_backend, undrain_backend
from routing.health.seen import read_seen
from routing.models import (
    Backend,
    BreakerRule,
    CatalogueModel,
    ContentRoute,
    Fallback,
    Grant,
    ModelAlias,
    Route,
)
from routing.queries import list_models_served_only_by
from teams.admin.confirmed import ConfirmingAdmin, Step
from teams.roles import Action

if TYPE_CHECKING:
    TabularInline = admin.TabularInline[Any, Any]
    ModelForm = forms.ModelForm[Backend]
else:
    TabularInline = admin.TabularInline
    ModelForm = forms.ModelForm


class RouteInline(TabularInline):
    """Which backends may serve the model."""

    model = Route
    extra = 0
    autocomplete_fields = ["backend"]


class FallbackInline(TabularInline):
    """Which models serve in its place."""

    model = Fallback
    fk_name = "model"
    extra = 0
    autocomplete_fields = ["to"]


class ContentRouteInline(TabularInline):
    """Which models it passes requests on to, by what they are about."""

    model = ContentRoute
    fk_name = "model"
    extra = 0
    autocomplete_fields = ["to"]


class AliasInline(TabularInline):
    """Other names of the model."""

    model = ModelAlias
    extra = 0


@admin.register(CatalogueModel)
class CatalogueModelAdmin(AuditedAdmin):
    """The catalogue."""

    list_display = ["name", "description", "max_output_tokens", "strategy", "is_active"]
    list_filter = ["is_active", "strategy"]
    search_fields = ["name", "description"]
    inlines = [AliasInline, RouteInline, FallbackInline, ContentRouteInline]


@admin.register(Grant)
class GrantAdmin(AuditedAdmin):
    """Who may use which model."""

    list_display = ["team", "model", "created_at"]
    list_select_related = ["team", "model"]
    search_fields = ["team__slug", "model__name"]
    autocomplete_fields = ["team", "model"]


@admin.register(Route)
class RouteAdmin(AuditedAdmin):
    """Which backends may serve which model."""

    list_display = ["model", "backend", "priority", "weight"]
    list_select_related = ["model", "backend"]
    search_fields = ["model__name", "backend__name"]
    autocomplete_fields = ["model", "backend"]


class PriceInline(TabularInline):
    """The backend's prices: new ones are added below the old, which stay as the ledger knows them."""

    model = PriceEntry
    extra = 0
    ordering = ["-effective_from"]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A coming price is corrected, an earlier one kept, on the price's own page."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """See `has_change_permission`."""
        return False


class BreakerRuleInline(TabularInline):
    """When it is left alone; without any, by the usual rule."""

    model = BreakerRule
    extra = 0


class BackendForm(CredentialForm):
    """A backend, with its credential to write and never to read."""

    class Meta:
        model = Backend
        fields = "__all__"
        labels = {
            "base_url": "Base URL",
            "api_version": "API version",
            "entra_tenant": "Entra tenant",
            "entra_client_id": "Entra client ID",
            "connect_timeout_s": "Connect",
            "first_byte_timeout_s": "First byte",
            "idle_timeout_s": "Idle",
            "total_timeout_s": "Total",
            "longest_trip_s": "Left alone at most (s)",
        }


_ENTRA = ("entra_tenant", "entra_client_id")


@admin.register(Backend)
class BackendAdmin(ConfirmingAdmin):
    """Deployments at providers."""

    form = BackendForm
    list_display = [
        "name",
        "base_url",
        "upstream_model",
        "credential_state",
        "state",
        "under_way",
        "first_byte",
    ]
    list_filter = ["is_active", "is_draining", "provider"]
    search_fields = ["name", "base_url", "upstream_model"]
    readonly_fields = ["credential_state", "state", "is_draining"]  # drained by the step that asks first
    inlines = [PriceInline, BreakerRuleInline]
    steps = (
        Step(
            "drain",
            "Drain",
            "was set to drain",
            Action.BACKEND_DRAIN,
            "It gets no new calls within a second; calls under way end as usual. Models that no other backend "
            "serves answer 503 until you undrain it.",
            lambda: Q(is_draining=False),
            lambda backend, actor, _: drain_backend(backend, actor=actor),
        ),
        Step(
            "undrain",
            "Undrain",
            "was set to serve",
            Action.BACKEND_DRAIN,
            "It gets new calls again within a second, if it is active.",
            lambda: Q(is_draining=True),
            lambda backend, actor, _: undrain_backend(backend, actor=actor),
            is_destructive=False,
        ),
    )

    def describe(self, row: Backend) -> str:
        """Which models it leaves without any other backend."""
        alone = list_models_served_only_by(row)
        return (
            f"the only backend of {', '.join(alone)}" if alone else "each of its models has another backend"
        )

    @admin.display(description="State", ordering="is_active")
    def state(self, backend: Backend) -> str:
        """Whether it gets calls."""
        if not backend.is_active:
            return "Inactive"
        if backend.is_draining:
            return "Draining"
        until = read_seen(backend.pk).left_alone_until
        return "Active" if until is None else f"Fails: left alone until {until:%H:%M:%S} UTC"

    @admin.display(description="Calls under way")
    def under_way(self, backend: Backend) -> str:
        """Of all workers."""
        return f"{read_seen(backend.pk).under_way:,}"

    @admin.display(description="First byte after")
    def first_byte(self, backend: Backend) -> str | None:
        """On average, by the answers of the last minute; of plain answers, the whole."""
        seen = read_seen(backend.pk).first_byte_ms
        return None if seen is None else f"{seen:,.0f} ms"

    @admin.display(description="Credential in use")
    def credential_state(self, backend: Backend) -> str:
        """Where the credential comes from."""
        return backend.credential_state

    def get_fieldsets(self, request: HttpRequest, obj: Backend | None = None) -> Any:
        """Who may only look sees no field for a secret."""
        may_write = self.has_change_permission(request, obj) if obj else self.has_add_permission(request)
        secrets = SECRETS if may_write else ()
        return [
            (
                None,
                {
                    "fields": [
                        "name",
                        "provider",
                        "base_url",
                        "upstream_model",
                        "api_version",
                        "passes_responses",
                        "is_active",
                        "is_draining",
                    ]
                },
            ),
            ("Credential", {"fields": ["credential_state", *secrets, "credential_reference", *_ENTRA]}),
            ("Price by the list", {"fields": ["list_price_provider", "list_price_model"]}),
            (
                "Time limits in seconds",
                {
                    "fields": [
                        "connect_timeout_s",
                        "first_byte_timeout_s",
                        "idle_timeout_s",
                        "total_timeout_s",
                    ]
                },
            ),
            ("Who may reach it, and who prefers it", {"fields": ["tags", "region", "quality"]}),
            ("How much it can take", {"fields": ["most_calls", "tokens_per_minute", "adapts"]}),
            ("When it fails", {"fields": ["longest_trip_s", "check_every_s"]}),
            ("Connections that wait for their next call", {"fields": ["keep_alive_s", "most_idle"]}),
        ]
