"""Administration pages of limits and budgets."""

import time
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest

from audit.admin_trail import AuditedAdmin, CappedPaginator
from billing.admission.rules import EVERY_USER, MOST_AMOUNT
from billing.money import parse_usd, short_usd
from billing.rule_models import OWNERS, Budget, BudgetUnit, Limit, OwnedRule
from billing.rule_queries import OWNER_PATHS, tell_window

if TYPE_CHECKING:
    ModelForm = forms.ModelForm[Budget]
else:
    ModelForm = forms.ModelForm


class OwnerFilter(admin.SimpleListFilter):
    """On which level the rule is."""

    title = "owner"
    parameter_name = "owner"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The kinds of owners."""
        return [(name, str(model_admin.model._meta.get_field(name).verbose_name)) for name in OWNERS]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        """The rules of the chosen kind of owner."""
        chosen = self.value()
        return queryset.filter(**{f"{chosen}__isnull": False}) if chosen in OWNERS else queryset


class ForWhomFilter(admin.SimpleListFilter):
    """Whether end users have it each, or the owner as a whole."""

    title = "end users"
    parameter_name = "users"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The choices."""
        return [("whole", "The owner as a whole"), ("each", "Each end user"), ("named", "One end user")]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        """The rules of the chosen kind."""
        if self.value() == "whole":
            return queryset.filter(end_user="")
        if self.value() == "each":
            return queryset.filter(end_user=EVERY_USER)
        return queryset.exclude(end_user__in=["", EVERY_USER]) if self.value() == "named" else queryset


class RuleAdmin(AuditedAdmin):
    """What limits and budgets have in common. What a rule counts is settled when it is made; its amount is not."""

    list_select_related = OWNER_PATHS
    search_fields = [
        *("department__slug", "team__slug", "application__slug", "application__team__slug"),
        *("api_key__name", "api_key__hint", "api_key__team__slug", "end_user", "model__name"),
    ]
    search_help_text = "Part of a department, team, application, key, hint, end user or model."
    autocomplete_fields = [*OWNERS, "model"]
    paginator = CappedPaginator
    list_per_page = 50
    counts: tuple[str, ...] = ()
    amounts: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()

    def get_fieldsets(self, request: HttpRequest, obj: OwnedRule | None = None) -> Any:
        """Whose it is, which calls it counts, and how much they may be."""
        if obj is None:
            return [
                ("Whose", {"fields": OWNERS, "description": "Choose exactly one."}),
                ("Which calls", {"fields": ["end_user", "model"]}),
                ("How much", {"fields": [*self.counts, *self.amounts]}),
            ]
        may_change = self.has_change_permission(request, obj)
        amounts = self.amounts if may_change else ("allows", *self.amounts[1:])
        note = (
            "What it counts stays. To count something else, add another and delete this one."
            if may_change
            else ""
        )
        return [
            (None, {"fields": ["whose", "which_calls", *self.counts], "description": note}),
            ("How much", {"fields": [*amounts, *self.facts, "created_at"]}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: OwnedRule | None = None) -> tuple[str, ...]:
        """All but the amount, of a rule that exists."""
        return (
            () if obj is None else ("whose", "which_calls", "allows", *self.counts, *self.facts, "created_at")
        )

    @admin.display(description="Owner")
    def whose(self, rule: OwnedRule) -> str:
        """The owner's kind and name."""
        return rule.owner_label

    @admin.display(description="Which calls")
    def which_calls(self, rule: OwnedRule) -> str:
        """Of whom, and of which model."""
        return rule.calls_told


@admin.register(Limit)
class LimitAdmin(RuleAdmin):
    """Rates: so many requests or tokens per minute, or requests at a time."""

    list_display = ["whose", "which_calls", "allows"]
    list_filter = [OwnerFilter, ForWhomFilter, "kind"]
    counts, amounts = ("kind",), ("amount",)

    @admin.display(description="At most", ordering="amount")
    def allows(self, limit: Limit) -> str:
        """The amount with its unit."""
        return limit.told


class BudgetForm(ModelForm):
    """A budget whose amount is typed in dollars or in tokens, as its unit says."""

    amount = forms.CharField(
        label="At most",
        widget=forms.TextInput(attrs={"inputmode": "decimal", "size": 24, "autocomplete": "off"}),
    )

    class Meta:
        model = Budget
        fields = "__all__"
        labels = {"period": "Per"}

    def __init__(self, *arguments: Any, **words: Any) -> None:
        super().__init__(*arguments, **words)
        if "amount" not in self.fields:  # who may only look
            return
        amount = self.fields["amount"]
        money, tokens = "US dollars, such as 12.50, with at most nine decimals", "A whole number of tokens"
        if self.instance._state.adding:
            amount.help_text = f"{money}; or {tokens[0].lower()}{tokens[1:]}."
            return
        is_money = self.instance.unit == BudgetUnit.MONEY
        amount.help_text = f"{money if is_money else tokens}."
        stored = self.instance.amount
        self.initial["amount"] = short_usd(stored, "") if is_money else str(stored)

    def clean(self) -> dict[str, Any]:
        """The amount as it is stored: in nano-dollars, or in tokens."""
        super().clean()
        unit = self.cleaned_data.get("unit") or self.instance.unit
        if unit and (typed := self.cleaned_data.get("amount")) is not None:
            try:
                self.cleaned_data["amount"] = read_amount(typed, unit)
            except ValidationError as error:
                self.add_error("amount", error)
        elif "amount" in self.cleaned_data:
            self.cleaned_data["amount"] = 1  # any: the form is refused for its unit
        return self.cleaned_data


def read_amount(typed: str, unit: str) -> int:
    """What a person typed, in nano-dollars or tokens. Raises ValidationError."""
    is_money = unit == BudgetUnit.MONEY
    typed = typed.strip().removeprefix("$") if is_money else typed.strip()
    try:
        amount = parse_usd(typed) if is_money else _parse_tokens(typed)
    except ValueError:
        example = "an amount such as 12.50, with at most nine decimals" if is_money else "a whole number"
        raise ValidationError(f"Enter {example}, without other characters.") from None
    if 1 <= amount <= MOST_AMOUNT:
        return amount
    least, most = ("$0.000000001", f"${short_usd(MOST_AMOUNT)}") if is_money else ("1", f"{MOST_AMOUNT:,}")
    raise ValidationError(f"Enter an amount from {least} to {most}.")


def _parse_tokens(typed: str) -> int:
    if not (typed.isascii() and typed.isdecimal() and len(typed) < 30):
        raise ValueError(typed)
    return int(typed)


@admin.register(Budget)
class BudgetAdmin(RuleAdmin):
    """Amounts of money or tokens per calendar window."""

    form = BudgetForm
    list_display = ["whose", "which_calls", "allows", "mode", "window"]
    list_filter = [OwnerFilter, ForWhomFilter, "unit", "period", "is_hard"]
    counts, amounts, facts = ("unit", "period"), ("amount", "is_hard"), ("window",)

    @admin.display(description="At most", ordering="amount")
    def allows(self, budget: Budget) -> str:
        """The amount with its unit and period."""
        return f"{budget.told} per {budget.period}"

    @admin.display(description="Mode", ordering="is_hard")
    def mode(self, budget: Budget) -> str:
        """Whether it refuses."""
        return "Hard" if budget.is_hard else "Soft"

    @admin.display(description="Present window")
    def window(self, budget: Budget) -> str:
        """From when until when what is used counts together, in the department's time zone."""
        return tell_window(budget, int(time.time()))
