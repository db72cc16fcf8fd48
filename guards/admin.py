"""Administration pages of guard policies and recognisers."""

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.contrib.postgres.forms import SimpleArrayField
from django.http import HttpRequest

from audit.admin_trail import AuditedAdmin
from guards.external_models import ExternalGuard
from guards.models import Finds, GuardPolicy, GuardRule, PolicyTeam, Recogniser
from guards.topics import max_nearness
from outbound.credential_form import SECRETS, CredentialForm

if TYPE_CHECKING:
    TabularInline = admin.TabularInline[Any, Any]
    ModelForm = forms.ModelForm[Recogniser]
else:
    TabularInline = admin.TabularInline
    ModelForm = forms.ModelForm


_MOST_SHOWN = 20


class RuleInline(TabularInline):
    """What each guard does."""

    model = GuardRule
    extra = 0


class TeamInline(TabularInline):
    """Whom the policy applies to."""

    model = PolicyTeam
    extra = 0
    autocomplete_fields = ["team"]


@admin.register(GuardPolicy)
class GuardPolicyAdmin(AuditedAdmin):
    """What is looked for, and what is done about it."""

    list_display = ["name", "description", "guards", "streams", "is_default"]
    search_fields = ["name", "description"]
    inlines = [RuleInline, TeamInline]

    @admin.display(description="Guards")
    def guards(self, policy: GuardPolicy) -> str:
        """Those that look, and what they do."""
        rules = [f"{rule.get_guard_display()} ({rule.looks_at}): {rule.act}" for rule in policy.rules.all()]
        return ", ".join(rules) or "None: nothing is looked for"

    def get_queryset(self, request: HttpRequest) -> Any:
        """With their rules."""
        return super().get_queryset(request).prefetch_related("rules")


class LinesField(SimpleArrayField):
    """Texts, one a line; empty lines are none."""

    def __init__(self, longest: int, rows: int, **options: Any) -> None:
        widget = forms.Textarea(attrs={"rows": rows})
        super().__init__(
            forms.CharField(max_length=longest), delimiter="\n", required=False, widget=widget, **options
        )

    def to_python(self, value: Any) -> Any:
        """Without the empty lines."""
        return super().to_python("\n".join(filter(None, map(str.strip, (value or "").split("\n")))))


class RecogniserForm(ModelForm):
    """With a box to try it: while a text is in it nothing is saved."""

    keywords = LinesField(
        128, 4, help_text="In place of an expression: words or phrases, one a line, in whatever case."
    )
    examples = LinesField(
        1000, 6, help_text="Of a topic: texts about it, one a line. Ten do better than a few."
    )

    sample = forms.CharField(
        label="Try it on a text",
        required=False,
        max_length=10_000,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="Enter a text and save: you are told what is found there, and nothing is saved.",
    )

    class Meta:
        model = Recogniser
        fields = "__all__"

    def _post_clean(self) -> None:
        """Try it, once the model has nothing against it."""
        super()._post_clean()  # type: ignore[misc]
        if self.errors or not (sample := self.cleaned_data.get("sample")):
            return
        if self.instance.guard == Finds.TOPICS:
            told = f"{max_nearness(self.instance.to_topic(), sample):.0%} near the topic."
        else:
            found = [sample[each.start : each.end] for each in self.instance.to_custom().find(sample)]
            told = f"Found: {', '.join(found[:_MOST_SHOWN])}." if found else "Nothing was found."
        self.add_error("sample", f"{told} Nothing was saved; empty this box to save.")


@admin.register(Recogniser)
class RecogniserAdmin(AuditedAdmin):
    """What the company itself looks for."""

    form = RecogniserForm
    list_display = ["name", "type", "guard", "goes_by", "is_active"]
    list_filter = ["guard", "is_active"]
    search_fields = ["name", "type"]
    fieldsets = (
        (None, {"fields": ["name", "type", "guard", "is_active"]}),
        ("By one of these", {"fields": ["pattern", "ignores_case", "keywords", "examples"]}),
        ("And only where", {"fields": ["words", "checksum", "score_percent"]}),
        ("Try it", {"fields": ["sample"]}),
    )

    @admin.display(description="Goes by")
    def goes_by(self, recogniser: Recogniser) -> str:
        """An expression, or how many words or examples."""
        if recogniser.pattern:
            return recogniser.pattern
        return (
            f"{len(recogniser.keywords)} keywords"
            if recogniser.keywords
            else f"{len(recogniser.examples)} examples"
        )


@admin.register(ExternalGuard)
class ExternalGuardAdmin(AuditedAdmin):
    """Services elsewhere that policies may name."""

    form = CredentialForm
    list_display = ["name", "form_name", "base_url", "credential_state", "is_active"]
    list_filter = ["form", "is_active"]
    search_fields = ["name", "base_url"]
    readonly_fields = ["credential_state"]

    @admin.display(description="Service", ordering="form")
    def form_name(self, external: ExternalGuard) -> str:
        """Which service it is."""
        return external.get_form_display()

    @admin.display(description="Credential in use")
    def credential_state(self, external: ExternalGuard) -> str:
        """Where the credential comes from."""
        return external.credential_state

    def get_fieldsets(self, request: HttpRequest, obj: ExternalGuard | None = None) -> Any:
        """Who may only look sees no field for a secret."""
        may_write = self.has_change_permission(request, obj) if obj else self.has_add_permission(request)
        secrets = SECRETS if may_write else ()
        return [
            (None, {"fields": ["name", "form", "base_url", "setting", "timeout_ms", "is_active"]}),
            ("Credential", {"fields": ["credential_state", *secrets, "credential_reference"]}),
        ]
