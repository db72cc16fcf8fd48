"""A key that replaces another has its limits and budgets too, so that nobody gets rid of them by a rotation."""

from typing import Any

from audit.admin_trail import record_addition
from billing.rule_models import Budget, Limit
from teams.models import ApiKey


def copy_rules(instance: ApiKey, created: bool, **_: Any) -> None:
    """Receives `post_save` of API keys: give a rotated key the rules of the old one, with events.

    What a budget's window has used stays with the old key; budgets of application and team count both.
    """
    if not created or instance.replaces_id is None:
        return
    for kind in (Limit, Budget):
        for rule in kind.objects.filter(api_key=instance.replaces_id).order_by("pk"):
            rule.pk, rule.api_key, rule._state.adding = None, instance, True
            rule.save()
            record_addition(instance.created_by, rule)
