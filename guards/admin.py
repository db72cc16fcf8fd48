"""Administration pages of guard policies and recognisers."""

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest

from audit.admin_trail import AuditedAdmin
from guards.models import GuardPolicy, GuardRule, PolicyTeam, Recogniser

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

    list_display = ["name", "description", "guards", "is_default"]
    search_fields = ["name", "description"]
    inlines = [RuleInline, TeamInline]

    @admin.display(description="Guards")
    def guards(self, policy: GuardPolicy) -> str:
        """Those that look, and what they do."""
        rules = [f"{rule.get_guard_display()}: {rule.act}" for rule in policy.rules.all()]
        return ", ".join(rules) or "None: nothing is looked for"

    def get_queryset(self, request: HttpRequest) -> Any:
        """With their rules."""
        return super().get_queryset(request).prefetch_related("rules")


class RecogniserForm(ModelForm):
    """With a box to try it: while a text is in it nothing is saved."""

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
        found = [sample[each.start : each.end] for each in self.instance.to_custom().find(sample)]
        told = f"Found: {', '.join(found[:_MOST_SHOWN])}." if found else "Nothing was found."
        self.add_error("sample", f"{told} Nothing was saved; empty this box to save.")


@admin.register(Recogniser)
class RecogniserAdmin(AuditedAdmin):
    """What the company itself looks for."""

    form = RecogniserForm
    list_display = ["name", "type", "pattern", "is_active"]
    list_filter = ["is_active"]
    search_fields = ["name", "type"]
