"""Administration pages of API keys."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import SEARCH_VAR
from django.contrib.admin.widgets import AutocompleteSelect
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.http import urlencode

from audit.admin_trail import CappedPaginator, actor_of
from teams.admin.confirmed import ConfirmingAdmin, Step
from teams.admin.key_forms import RULES, ExistingKeyForm, NewKeyForm, RevokeForm, RotateForm, TeamChoiceForm
from teams.key_search import find_keys
from teams.keys import hint_of, is_well_formed
from teams.models import ApiKey, KeyState, Team
from teams.roles import Action
from teams.services import CreatedKey, change_key, create_key, pause_key, resume_key, revoke_key, rotate_key

SOON = timedelta(days=14)
NEVER_USED = "never used"
_ENDED = (KeyState.REVOKED, KeyState.EXPIRED)


def _lives() -> Q:
    return Q(revoked_at=None) & (Q(expires_at=None) | Q(expires_at__gt=timezone.now()))


class StateFilter(admin.SimpleListFilter):
    """Whether a key works, as far as the key itself says."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The choices."""
        return [
            *KeyState.choices,
            ("expiring", f"Expiring within {SOON.days} days"),
            ("unused", "Never used"),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
        """The keys in the chosen state."""
        now = timezone.now()
        conditions = {
            "active": _lives() & Q(paused_at=None),
            "paused": _lives() & Q(paused_at__isnull=False),
            "expired": Q(expires_at__lte=now, revoked_at=None),
            "revoked": Q(revoked_at__isnull=False),
            "expiring": Q(expires_at__gt=now, expires_at__lte=now + SOON, revoked_at=None),
            "unused": _lives() & Q(use=None),
        }
        chosen = conditions.get(self.value() or "")
        return queryset if chosen is None else queryset.filter(chosen)


def _revoke(key: ApiKey, actor: str, values: Mapping[str, Any]) -> bool:
    return revoke_key(key, actor=actor, reason=values["reason"])


def _rotate(key: ApiKey, actor: str, values: Mapping[str, Any]) -> CreatedKey:
    return rotate_key(key, actor=actor, overlap=values["overlap"])


STEPS = (
    Step(
        "rotate",
        "Rotate",
        "was rotated",
        Action.KEY_ROTATE,
        "A new key with the same rights is made and shown once. The old one works beside it until the moment you "
        "choose, so that applications can change over.",
        lambda: _lives() & Q(replacement=None),
        _rotate,
        form=RotateForm,
        is_destructive=False,
        most=1,
    ),
    Step(
        "pause",
        "Pause",
        "was paused",
        Action.KEY_PAUSE,
        "Every gateway worker refuses what is listed here within a second, until you resume it.",
        lambda: _lives() & Q(paused_at=None),
        lambda key, actor, _: pause_key(key, actor=actor),
    ),
    Step(
        "resume",
        "Resume",
        "was resumed",
        Action.KEY_PAUSE,
        "What is listed here works again within a second.",
        lambda: _lives() & Q(paused_at__isnull=False),
        lambda key, actor, _: resume_key(key, actor=actor),
        is_destructive=False,
    ),
    Step(
        "revoke",
        "Revoke",
        "was revoked",
        Action.KEY_REVOKE,
        "Every gateway worker refuses what is listed here within a second. This cannot be undone.",
        lambda: Q(revoked_at=None),
        _revoke,
        form=RevokeForm,
    ),
)


@admin.register(ApiKey)
class ApiKeyAdmin(ConfirmingAdmin):
    """Keys: made here and shown once, changed in their rules, rotated, paused, revoked; never deleted."""

    form = ExistingKeyForm
    list_display = ["name", "hint", "owner", "state", "last_used", "expires"]
    list_filter = [StateFilter]
    list_select_related = ()  # see get_queryset
    search_fields = ["name"]
    search_help_text = (
        "Part of a name, team or application, or a hint such as sk-gw_...AbC1. Never a whole key."
    )
    paginator = CappedPaginator
    list_per_page = 50
    sortable_by = ["name", "expires"]
    steps = STEPS

    def describe(self, row: ApiKey) -> str:
        """Whose it is, and when it was last used."""
        use = self.last_used(row)
        return f"{self.owner(row)}, {use if use == NEVER_USED else f'last used {use}'}"

    @admin.display(description="Owner")
    def owner(self, key: ApiKey) -> str:
        """The application, or the team itself."""
        return str(key.application or key.team)

    @admin.display(description="Expires (UTC)", ordering="expires_at")
    def expires(self, key: ApiKey) -> str:
        """The day."""
        return "never" if key.expires_at is None else f"{key.expires_at:%Y-%m-%d}"

    @admin.display(description="State")
    def state(self, key: ApiKey) -> str:
        """Active, paused, expired or revoked."""
        return str(key.state_at(timezone.now()).label)

    @admin.display(description="Last used (UTC)")
    def last_used(self, key: ApiKey) -> str:
        """To the minute: it is written in batches."""
        use = getattr(key, "use", None)
        return NEVER_USED if use is None else f"{use.last_used_at:%Y-%m-%d %H:%M}"

    @admin.display(description="Last used from")
    def last_used_from(self, key: ApiKey) -> str:
        """The address."""
        use = getattr(key, "use", None)
        return (use.last_used_ip if use is not None else None) or "-"

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Any]":
        """Each key's owners and use by look-ups of their own: joins made the planner sort joined rows by the
        ten thousand before it took the newest."""
        return super().get_queryset(request).prefetch_related("team", "application__team", "use")

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The list. Who pastes a whole key into the search finds it by its hint, on a page that does not repeat it."""
        if is_well_formed(term := request.GET.get(SEARCH_VAR, "").strip()):
            return HttpResponseRedirect(f"{request.path}?{urlencode({SEARCH_VAR: hint_of(term)})}")
        return super().changelist_view(request, extra_context)

    def get_search_results(
        self, request: HttpRequest, queryset: "QuerySet[Any]", search_term: str
    ) -> "tuple[QuerySet[Any], bool]":
        """By name, team, application or hint."""
        return (find_keys(queryset, search_term) if search_term.strip() else queryset), False

    # --- The form ---

    def get_form(
        self, request: HttpRequest, obj: ApiKey | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        """A new key's form, or an existing one's."""
        if obj is None:
            kwargs["form"] = NewKeyForm
        return super().get_form(request, obj, change, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        """What it is, what it may, and what became of it."""
        if obj is None:
            main = ["team", "name", "application", "expires_at", "never_expires"]
            return [(None, {"fields": main}), ("Restrictions", {"fields": RULES})]
        is_fixed = "expires_at" in self.get_readonly_fields(request, obj)
        never = ["never_expires"] if self.has_change_permission(request, obj) and not is_fixed else []
        story = ["state", "last_used", "last_used_from", "created_by", "created_at", "paused_at"]
        story += ["revoked_at", "revoked_reason", "replaces"]
        return [
            (None, {"fields": ["name", "hint", "team", "application", "expires_at", *never]}),
            ("Restrictions", {"fields": RULES}),
            ("What became of it", {"fields": story}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> list[str]:
        """What only steps change; of a key that has ended everything but its name."""
        if obj is None:
            return []
        fixed = ["hint", "team", "state", "last_used", "last_used_from", "created_by", "created_at"]
        fixed += ["paused_at", "revoked_at", "revoked_reason", "replaces"]
        ended = obj.state_at(timezone.now()) in _ENDED
        return [*fixed, "application", "expires_at", *RULES] if ended else fixed

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        """Keys are revoked, so that the ledger can always say whose they were."""
        return False

    # --- Making and changing ---

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """First whose key it will be, then the rest. What follows is always the page that shows the secret."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        choice = TeamChoiceForm(request.POST or request.GET or None)
        if request.method == "GET" and not choice.is_valid():
            return self._ask_for_the_team(request)
        team = choice.cleaned_data["team"] if choice.is_valid() else None
        context = {
            "show_save_and_continue": False,
            "show_save_and_add_another": False,
            "subtitle": f"Team {team}" if team else None,
        }
        return super().add_view(request, form_url, {**(extra_context or {}), **context})

    def _ask_for_the_team(self, request: HttpRequest) -> HttpResponse:
        form = TeamChoiceForm()
        field, team = ApiKey._meta.get_field("team"), form.fields["team"]
        team.widget = AutocompleteSelect(field, self.admin_site, choices=team.choices)  # type: ignore[attr-defined]
        context = {
            **self.admin_site.each_context(request),
            "title": "Add API key",
            "subtitle": "Whose key is it?",
            "opts": self.opts,
            "form": form,
            "media": self.media + form.media,
            "has_teams": Team.objects.exists(),
            "is_unanswered": "team" in request.GET,
        }
        return TemplateResponse(request, "admin/teams/apikey/choose_team.html", context)

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **words: Any) -> Any:
        """Without the links to change or delete an application from here."""
        field = super().formfield_for_dbfield(db_field, request, **words)
        if db_field.name == "application" and field is not None:
            widget = field.widget
            widget.can_add_related = widget.can_change_related = False
            widget.can_delete_related = widget.can_view_related = False
        return field

    def changeform_view(self, request: HttpRequest, *arguments: Any, **words: Any) -> Any:
        """The form's page. What changed between its checks and the change itself is told, and nothing is saved."""
        try:
            return super().changeform_view(request, *arguments, **words)
        except ValidationError as error:
            self.message_user(request, f"Nothing was saved. {' '.join(error.messages)}", messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Through the services, which record it; a new key's secret is kept for this one response."""
        if change:
            change_key(obj, actor=actor_of(request), **form.changes())
            return
        created = create_key(
            obj.team,
            obj.name,
            actor=actor_of(request),
            application=obj.application,
            expires_at=obj.expires_at,
            never_expires=form.cleaned_data["never_expires"],
            **{name: form.cleaned_data[name] for name in RULES},
        )
        obj.pk = created.key.pk
        obj.refresh_from_db()
        request.new_key = created  # type: ignore[attr-defined]

    def record_saved(self, request: HttpRequest, form: Any, change: bool) -> None:
        """The services have recorded it."""

    def response_add(
        self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None
    ) -> HttpResponse:
        """Show the secret."""
        return self._show_secret(request, request.new_key)  # type: ignore[attr-defined]

    def respond(self, request: HttpRequest, step: Step, results: Sequence[object]) -> HttpResponse:
        """After a rotation show the new key's secret."""
        match results:
            case [CreatedKey() as created]:
                return self._show_secret(request, created)
        return super().respond(request, step, results)

    def _show_secret(self, request: HttpRequest, created: CreatedKey) -> HttpResponse:
        """For the only time, in the answer itself: no message, cookie, session or address holds it."""
        context = {
            **self.admin_site.each_context(request),
            "title": "Copy the new key now",
            "opts": self.opts,
            "key": created.key,
            "secret": created.secret,
            "models_url": request.build_absolute_uri("/v1/models"),
        }
        response = TemplateResponse(request, "admin/teams/apikey/created.html", context)
        response.headers["Cache-Control"] = "no-store"
        return response
