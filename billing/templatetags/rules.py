"""The limits and budgets that apply to what a page is about."""

import time
from typing import Any

from django import template
from django.urls import reverse
from django.utils.http import urlencode

from billing.rule_models import Budget, Limit
from billing.rule_queries import field_of_owner, list_rules_over, tell_window
from teams.permissions import access_of
from teams.roles import Action

MOST_SHOWN = 50

register = template.Library()


@register.inclusion_tag("admin/_rules.html", takes_context=True)
def rules_that_apply(context: dict[str, Any]) -> dict[str, Any]:
    """Two tables, for whoever may see them; nothing on pages of other things and of new ones."""
    target: Any = context.get("original")
    request = context["request"]
    field = "" if target is None or context.get("is_popup") else field_of_owner(target)
    access = access_of(request.user)
    kinds = (
        (Limit, Action.LIMIT_VIEW, Action.LIMIT_MANAGE),
        (Budget, Action.BUDGET_VIEW, Action.BUDGET_MANAGE),
    )
    return {
        "tables": [
            _table(kind, target, access.may(manage) and f"?{urlencode({field: target.pk})}")
            for kind, view, manage in kinds
            if field and access.may(view)
        ],
        "most": MOST_SHOWN,
    }


def _table(kind: type[Limit] | type[Budget], target: Any, add_query: str | bool) -> dict[str, Any]:
    name, now = kind._meta.model_name, int(time.time())
    rules = list(list_rules_over(kind, target)[: MOST_SHOWN + 1])
    return {
        "title": str(kind._meta.verbose_name_plural).capitalize(),
        "noun": kind._meta.verbose_name,
        "is_of_budgets": kind is Budget,
        "rows": [
            {
                "rule": rule,
                "address": reverse(f"admin:billing_{name}_change", args=[rule.pk]),
                "is_own": rule.owner == target,
                "window": tell_window(rule, now) if isinstance(rule, Budget) else "",
            }
            for rule in rules[:MOST_SHOWN]
        ],
        "is_cut": len(rules) > MOST_SHOWN,
        "add_address": reverse(f"admin:billing_{name}_add") + add_query if isinstance(add_query, str) else "",
        "list_address": reverse(f"admin:billing_{name}_changelist"),
    }
