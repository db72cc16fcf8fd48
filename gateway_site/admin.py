"""The administration's pages of people's accounts."""

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.forms import (
    AdminPasswordChangeForm,
    ReadOnlyPasswordHashField,
    ReadOnlyPasswordHashWidget,
    UserChangeForm,
)
from django.contrib.auth.hashers import is_password_usable
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.http import HttpRequest, HttpResponse

from audit.admin_trail import CappedPaginator, actor_of, lock_facts, record_change
from teams.admin.people import KeepsAPlatformAdmin
from teams.models import Member

admin.site.unregister(User)
admin.site.unregister(Group)  # rights come from roles: see teams/permissions.py

if TYPE_CHECKING:
    TabularInline = admin.TabularInline[Any, Any]
else:
    TabularInline = admin.TabularInline


class PasswordState(ReadOnlyPasswordHashWidget):
    """Says whether there is a password, and nothing of its hash."""

    def get_context(self, name: str, value: Any, attrs: Any) -> dict[str, Any]:
        """The widget's context without salt, rounds and hash."""
        context = super().get_context(name, value, attrs)
        is_set = bool(value) and is_password_usable(value)
        context["summary"] = [{"label": "Set." if is_set else "No password set."}]
        return context


class PersonForm(UserChangeForm):  # type: ignore[type-arg]
    """An account without a trace of the password."""

    password = ReadOnlyPasswordHashField(label="Password", widget=PasswordState)

    class Meta(UserChangeForm.Meta):
        help_texts = {
            "is_active": "A closed account cannot sign in; what it did stays in the trail.",
            "is_superuser": "Counts as a platform admin. Better give the role below, which the trail knows by name.",
        }


class PasswordChangeForm(AdminPasswordChangeForm):  # type: ignore[type-arg]
    """Sets a new password. Who is not to sign in has the account closed, which asks whether an admin remains."""

    def __init__(self, *arguments: Any, **words: Any) -> None:
        super().__init__(*arguments, **words)
        self.fields.pop("usable_password", None)


class MemberInline(TabularInline):
    """The person's roles."""

    model = Member
    extra = 0
    autocomplete_fields = ["department", "team"]
    verbose_name = "role"
    verbose_name_plural = "roles"


@admin.register(User)
class PersonAdmin(KeepsAPlatformAdmin, UserAdmin):  # type: ignore[type-arg]
    """People: an account to sign in with, and what its owner may do where."""

    form = PersonForm
    change_password_form = PasswordChangeForm
    inlines = [MemberInline]
    list_display = ["username", "full_name", "email", "is_active", "last_login"]
    list_filter = ["is_active", "is_superuser", "memberships__role"]
    search_fields = ["username", "first_name", "last_name", "email"]
    readonly_fields = ["last_login", "date_joined"]
    filter_horizontal = ()
    paginator = CappedPaginator
    fieldsets = [
        (None, {"fields": ["username", "password"]}),
        ("Person", {"fields": ["first_name", "last_name", "email"]}),
        ("Account", {"fields": ["is_active", "is_superuser", "last_login", "date_joined"]}),
    ]

    @admin.display(description="Name", ordering="last_name")
    def full_name(self, user: User) -> str:
        """First and last name."""
        return user.get_full_name() or "-"

    @transaction.atomic
    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        """Set another's password; the trail says that it was replaced."""
        user = self.get_object(request, id) if request.method == "POST" else None
        before = lock_facts(user) if user is not None and self.has_change_permission(request, user) else None
        response = super().user_change_password(request, id, form_url)
        if user is not None and before is not None:
            record_change(actor_of(request), user, before)
        return response
