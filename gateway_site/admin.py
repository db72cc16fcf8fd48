"""The administration's titles, and the pages of users and groups, for superusers only."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.forms import ReadOnlyPasswordHashField, ReadOnlyPasswordHashWidget, UserChangeForm
from django.contrib.auth.models import Group, User
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse

from audit.admin_trail import AuditedAdmin, actor_of, lock_facts, record_change

admin.site.site_title = "LLM gateway"
admin.site.site_header = "LLM gateway administration"
admin.site.index_title = "Administration"
admin.site.unregister(User)
admin.site.unregister(Group)


class SuperuserAdmin(AuditedAdmin):
    """Who can edit users can become anyone, so no permission but superuser opens these pages."""

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Superusers only."""
        return is_superuser(request)

    def has_view_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        """Superusers only."""
        return is_superuser(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Superusers only."""
        return is_superuser(request)

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        """Superusers only."""
        return is_superuser(request)

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        """Superusers only."""
        return is_superuser(request)


def is_superuser(request: HttpRequest) -> bool:
    """Whether an active superuser is signed in."""
    return bool(request.user.is_active and request.user.is_superuser)


class PasswordState(ReadOnlyPasswordHashWidget):
    """Says whether there is a password, and nothing of its hash."""

    def get_context(self, name: str, value: Any, attrs: Any) -> dict[str, Any]:
        """The widget's context without salt, rounds and hash."""
        context = super().get_context(name, value, attrs)
        context["summary"] = [{"label": "Set." if value else "No password set."}]
        return context


class UserForm(UserChangeForm):  # type: ignore[type-arg]
    """A user without a trace of the password."""

    password = ReadOnlyPasswordHashField(label="Password", widget=PasswordState)


@admin.register(User)
class AuditedUserAdmin(SuperuserAdmin, UserAdmin):  # type: ignore[type-arg]
    """People's accounts; their roles in the gateway are members."""

    form = UserForm

    @transaction.atomic
    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        """Set another's password; the trail says that it was replaced."""
        user = self.get_object(request, id) if request.method == "POST" else None
        before = lock_facts(user) if user is not None and self.has_change_permission(request, user) else None
        response = super().user_change_password(request, id, form_url)
        if user is not None and before is not None:
            record_change(actor_of(request), user, before)
        return response


@admin.register(Group)
class AuditedGroupAdmin(SuperuserAdmin, GroupAdmin):
    """Sets of permissions for the administration."""
