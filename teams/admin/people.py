"""Administration pages of departments, teams, applications and members."""

from collections.abc import Callable
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from audit.admin_trail import AuditedAdmin, CappedPaginator
from teams.admin.confirmed import ConfirmingAdmin, Step
from teams.deactivation import activate_team, deactivate_team
from teams.models import Application, Department, Member, Team
from teams.platform_admins import LastPlatformAdmin, keeping_a_platform_admin
from teams.roles import Action


@admin.register(Department)
class DepartmentAdmin(AuditedAdmin):
    """Cost centres."""

    list_display = ["slug", "name", "cost_centre", "time_zone"]
    search_fields = ["slug", "name", "cost_centre"]


@admin.register(Team)
class TeamAdmin(ConfirmingAdmin):
    """Teams. A team in use is deactivated, not deleted."""

    list_display = ["slug", "name", "department", "is_active"]
    list_filter = ["is_active"]
    list_select_related = ["department"]
    search_fields = ["slug", "name", "department__slug"]
    autocomplete_fields = ["department"]
    readonly_fields = ["is_active"]
    paginator = CappedPaginator
    steps = (
        Step(
            "deactivate",
            "Deactivate",
            "was deactivated",
            Action.TEAM_MANAGE,
            "Every gateway worker refuses the team's keys within a second. Nothing is deleted, and you can undo it.",
            lambda: Q(is_active=True),
            lambda team, actor, _: deactivate_team(team, actor=actor),
        ),
        Step(
            "activate",
            "Activate",
            "was activated",
            Action.TEAM_MANAGE,
            "The team's keys work again within a second, as far as each is neither paused, revoked nor expired.",
            lambda: Q(is_active=False),
            lambda team, actor, _: activate_team(team, actor=actor),
            is_destructive=False,
        ),
    )

    def describe(self, row: Team) -> str:
        """Its name and department."""
        return f"{row.name}, department {row.department}"


@admin.register(Application)
class ApplicationAdmin(AuditedAdmin):
    """Applications of teams."""

    list_display = ["slug", "name", "team"]
    list_select_related = ["team"]
    search_fields = ["slug", "name", "team__slug"]
    autocomplete_fields = ["team"]
    paginator = CappedPaginator

    def get_readonly_fields(self, request: HttpRequest, obj: Application | None = None) -> list[str]:
        """An application stays with its team: its keys and its ledger rows are the team's."""
        return ["team"] if obj else []


class KeepsAPlatformAdmin(AuditedAdmin):
    """Pages on which a platform admin can be taken away: the last one stays, and the reader is told."""

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Add or change."""
        return self._keeping(request, partial(super().changeform_view, request, *args, **kwargs))

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Delete one."""
        return self._keeping(request, partial(super().delete_view, request, *args, **kwargs))

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """The list, whose actions delete several."""
        return self._keeping(request, partial(super().changelist_view, request, *args, **kwargs))

    def _keeping(self, request: HttpRequest, view: Callable[[], HttpResponse]) -> HttpResponse:
        if request.method != "POST":
            return view()
        try:
            with keeping_a_platform_admin():
                return view()
        except LastPlatformAdmin as error:
            list(messages.get_messages(request))  # read and so dropped: they tell of what did not happen
            self.message_user(request, str(error), messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())


@admin.register(Member)
class MemberAdmin(KeepsAPlatformAdmin):
    """People's roles."""

    list_display = ["user", "role", "department", "team"]
    list_filter = ["role"]
    list_select_related = ["user", "department", "team"]
    search_fields = ["user__username", "department__slug", "team__slug"]
    autocomplete_fields = ["user", "department", "team"]
    paginator = CappedPaginator
