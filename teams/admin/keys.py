"""Administration pages of API keys."""

from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone

from audit.admin_trail import CappedPaginator, actor_of
from teams.admin.confirmed import ConfirmingAdmin, Step
from teams.models import ApiKey
from teams.roles import Action
from teams.services import DEFAULT_KEY_LIFE, create_key, revoke_key


class KeyState(admin.SimpleListFilter):
    """Whether a key works, as far as the key itself says."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The choices."""
        return [("active", "Active"), ("expired", "Expired"), ("revoked", "Revoked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
        """The keys in the chosen state."""
        is_expired = Q(expires_at__lte=timezone.now())
        match self.value():
            case "active":
                return queryset.filter(~is_expired | Q(expires_at=None), revoked_at=None)
            case "expired":
                return queryset.filter(is_expired, revoked_at=None)
            case "revoked":
                return queryset.exclude(revoked_at=None)
        return queryset


class NewKeyForm(forms.ModelForm):  # type: ignore[type-arg]
    """What a new key needs."""

    expires_at = forms.SplitDateTimeField(
        label="Expires at",
        required=False,
        widget=AdminSplitDateTime(),
        help_text=f"In UTC. Empty: in {DEFAULT_KEY_LIFE.days} days.",
    )
    never_expires = forms.BooleanField(required=False, label="Never expires")

    class Meta:
        model = ApiKey
        fields = ["team", "application", "name", "expires_at"]

    def clean_expires_at(self) -> datetime | None:
        """Not in the past."""
        expires_at: datetime | None = self.cleaned_data["expires_at"]
        if expires_at is not None and expires_at <= timezone.now():
            raise ValidationError("This moment has passed.")
        return expires_at

    def clean(self) -> dict[str, Any]:
        """One end or none."""
        super().clean()
        if self.cleaned_data.get("expires_at") and self.cleaned_data.get("never_expires"):
            self.add_error("never_expires", "Give a moment or choose never, not both.")
        return self.cleaned_data


@admin.register(ApiKey)
class ApiKeyAdmin(ConfirmingAdmin):
    """Keys: made here, shown once, named, revoked; never changed otherwise and never deleted."""

    list_display = ["name", "hint", "team", "application", "state", "expires_at", "created_by"]
    list_filter = [KeyState]
    list_select_related = ["team", "application__team"]
    search_fields = ["name", "=hint", "team__slug", "application__slug"]
    search_help_text = (
        "Part of a name, team or application, or a hint such as sk-gw_...AbC1. Never a whole key."
    )
    autocomplete_fields = ["team", "application"]
    paginator = CappedPaginator
    steps = (
        Step(
            "revoke",
            "Revoke",
            "was revoked",
            Action.KEY_REVOKE,
            "Every gateway worker refuses it within a second. This cannot be undone.",
            lambda: Q(revoked_at=None),
            lambda key, actor, values: revoke_key(key, actor=actor),
        ),
    )

    def describe(self, row: ApiKey) -> str:
        """Whose it is."""
        return str(row.application or row.team)

    @admin.display(description="State")
    def state(self, key: ApiKey) -> str:
        """Active, expired or revoked."""
        if key.revoked_at:
            return "Revoked"
        return "Expired" if key.expires_at and key.expires_at <= timezone.now() else "Active"

    def get_form(
        self, request: HttpRequest, obj: ApiKey | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        """The form of a new key, or the one that holds the name only."""
        if obj is None:
            kwargs["form"] = NewKeyForm
        return super().get_form(request, obj, change, **kwargs)

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        """A new key's choices, or everything that may be shown of a key."""
        if obj is None:
            return ["team", "application", "name", "expires_at", "never_expires"]
        return ["name", *self.get_readonly_fields(request, obj)]

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> list[str]:
        """Everything but the name, once the key exists."""
        if obj is None:
            return []
        return [
            "hint",
            "state",
            "team",
            "application",
            "created_by",
            "created_at",
            "expires_at",
            "revoked_at",
        ]

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        """Keys are revoked, so that the ledger can always say whose they were."""
        return False

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """With one button: what follows is always the page that shows the secret."""
        buttons = {"show_save_and_continue": False, "show_save_and_add_another": False}
        return super().add_view(request, form_url, {**(extra_context or {}), **buttons})

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Make the key through the service, which records it; keep the secret for this one response."""
        if change:
            super().save_model(request, obj, form, change)
            return
        created = create_key(
            obj.team,
            obj.name,
            actor=actor_of(request),
            application=obj.application,
            expires_at=obj.expires_at,
            never_expires=form.cleaned_data["never_expires"],
        )
        obj.pk = created.key.pk
        obj.refresh_from_db()
        request.new_secret = created.secret  # type: ignore[attr-defined]

    def record_saved(self, request: HttpRequest, form: Any, change: bool) -> None:
        """Record a new name; `create_key` has recorded a new key."""
        if change:
            super().record_saved(request, form, change)

    def response_add(
        self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None
    ) -> HttpResponse:
        """Show the secret, for the only time, in the answer itself: no message, cookie, session or address."""
        context = {
            **self.admin_site.each_context(request),
            "title": "Copy the new key now",
            "opts": self.opts,
            "key": obj,
            "secret": request.new_secret,  # type: ignore[attr-defined]
            "models_url": request.build_absolute_uri("/v1/models"),
        }
        response = TemplateResponse(request, "admin/teams/apikey/created.html", context)
        response.headers["Cache-Control"] = "no-store"
        return response
