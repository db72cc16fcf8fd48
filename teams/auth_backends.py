"""Lets Django's own questions (`user.has_perm`, which its administration asks) be answered by our roles."""

from typing import Any

from django.contrib.auth.backends import ModelBackend

from teams.permissions import access_of
from teams.roles import MODEL_RIGHTS, Action


class RoleBackend(ModelBackend):
    """Passwords as Django checks them; rights by role, whatever permissions and groups Django's tables hold."""

    def has_perm(self, user_obj: Any, perm: str, obj: Any = None) -> bool:
        """Whether a permission by Django's name, such as teams.change_team, is covered by a role."""
        action = action_for(perm)
        return action is not None and access_of(user_obj).may(action, obj)

    def has_module_perms(self, user_obj: Any, app_label: str) -> bool:
        """Whether anything of an app may be seen."""
        access = access_of(user_obj)
        views = [rights.view for label, rights in MODEL_RIGHTS.items() if label.startswith(f"{app_label}.")]
        return any(access.may(view) for view in views)

    def get_all_permissions(self, user_obj: Any, obj: Any = None) -> set[str]:
        """Those of Django's tables: none counts here."""
        return set()


def action_for(perm: str) -> Action | None:
    """Our action behind a permission's name; None when nobody has it."""
    app_label, _, codename = perm.partition(".")
    verb, _, model = codename.partition("_")
    rights = MODEL_RIGHTS.get(f"{app_label}.{model}")
    if rights is None:
        return None
    return {"view": rights.view, "add": rights.add, "change": rights.change, "delete": rights.delete}.get(
        verb
    )
