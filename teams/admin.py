"""Administration pages of departments, teams, applications, members and API keys."""

from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.http import urlencode

from audit.admin_trail import AuditedAdmin, actor_of, lock_facts
from teams.models import ApiKey, Application, Department, Member, Team
from teams.services import DEFAULT_KEY_LIFE, create_key, revoke_key

MOST_REVOKED = 100  # at once, so that the confirmation can list them


@admin.register(Department)
class DepartmentAdmin(AuditedAdmin):
    """Cost centres."""

    list_display = ["slug", "name", "cost_centre", "time_zone"]
    search_fields = ["slug", "name", "cost_centre"]


@admin.register(Team)
class TeamAdmin(AuditedAdmin):
    """Teams."""

    list_display = ["slug", "name", "department", "is_active"]
    list_filter = ["is_active"]
    list_select_related = ["department"]
    search_fields = ["slug", "name", "department__slug"]
    autocomplete_fields = ["department"]


@admin.register(Application)
class ApplicationAdmin(AuditedAdmin):
    """Applications of teams."""

    list_display = ["slug", "name", "team"]
    list_select_related = ["team"]
    search_fields = ["slug", "name", "team__slug"]
    autocomplete_fields = ["team"]

    def get_readonly_fields(self, request: HttpRequest, obj: Application | None = None) -> list[str]:
        """An application stays with its team: its keys and its ledger rows are the team's."""
        return ["team"] if obj else []


@admin.register(Member)
class MemberAdmin(AuditedAdmin):
    """People's roles."""

    list_display = ["user", "role", "department", "team"]
    list_filter = ["role"]
    list_select_related = ["user", "department", "team"]
    search_fields = ["user__username", "department__slug", "team__slug"]
    autocomplete_fields = ["user", "department", "team"]


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
class ApiKeyAdmin(AuditedAdmin):
    """Keys: made here, shown once, named, revoked; never changed otherwise and never deleted."""

    list_display = ["name", "hint", "team", "application", "state", "expires_at", "created_by"]
    list_filter = [KeyState]
    list_select_related = ["team", "application__team"]
    search_fields = ["name", "=hint", "team__slug", "application__slug"]
    search_help_text = (
        "Part of a name, team or application, or a hint such as sk-gw_...AbC1. Never a whole key."
    )
    autocomplete_fields = ["team", "application"]
    actions = ["revoke"]
    change_form_template = "admin/teams/apikey/change.html"

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
            form.facts_before = lock_facts(obj)
            obj.save(update_fields=["name"])  # what else was changed meanwhile stays
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

    @admin.action(description="Revoke selected API keys", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse | None:
        """Ask on a page of its own."""
        ids = list(queryset.values_list("pk", flat=True)[: MOST_REVOKED + 1])
        if len(ids) > MOST_REVOKED:
            self.message_user(request, f"Select at most {MOST_REVOKED} keys.", messages.ERROR)
            return None
        return HttpResponseRedirect(
            f"{reverse('admin:teams_apikey_revoke')}?{urlencode({'id': ids}, doseq=True)}"
        )

    def get_urls(self) -> list[URLPattern]:
        """One page more: the confirmation of a revocation."""
        view = self.admin_site.admin_view(self.revoke_view)
        return [path("revoke/", view, name="teams_apikey_revoke"), *super().get_urls()]

    def revoke_view(self, request: HttpRequest) -> HttpResponse:
        """Ask whether to revoke the keys named by `id` (GET), and do it (POST)."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        ids = [
            item
            for item in (request.POST or request.GET).getlist("id")
            if item.isdecimal() and len(item) < 19
        ]
        keys = self.get_queryset(request).filter(pk__in=ids[:MOST_REVOKED], revoked_at=None)
        keys = keys.select_related("team", "application")
        if request.method == "POST":
            count = self._revoke_all(request, list(keys))
            text = "1 API key was revoked." if count == 1 else f"{count} API keys were revoked."
            self.message_user(request, text, messages.SUCCESS if count else messages.WARNING)
            return HttpResponseRedirect(reverse("admin:teams_apikey_changelist"))
        context = {**self.admin_site.each_context(request), "title": "Revoke API keys?", "opts": self.opts}
        return TemplateResponse(request, "admin/teams/apikey/revoke.html", {**context, "keys": keys})

    @transaction.atomic
    def _revoke_all(self, request: HttpRequest, keys: list[ApiKey]) -> int:
        revoked = [key for key in keys if revoke_key(key, actor=actor_of(request))]
        if revoked:
            LogEntry.objects.log_actions(request.user.pk, revoked, CHANGE, "Revoked.")  # type: ignore[arg-type]
        return len(revoked)
