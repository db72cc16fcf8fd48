"""Who may do what, where: every page and API asks here, and nowhere else.

A person's rights come from their memberships (`teams.Member`) by the table in teams/roles.py. Django's own
permissions and groups play no part. A superuser (`manage.py createsuperuser`) counts as a platform admin, so
that a new installation has one. What a person may not see does not exist: pages look objects up in `visible`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from django.db import models
from django.db.models import Q

from teams.models import PLATFORM_ROLES, Member, Role
from teams.queries import list_memberships
from teams.roles import GIVES_ROLES, MODEL_RIGHTS, ROLE_ACTIONS, Action

Row = TypeVar("Row", bound=models.Model)
_REMEMBERED = "_gateway_access"


@dataclass(frozen=True, slots=True)
class Scope:
    """The departments and teams that something belongs to; without any it belongs to the platform."""

    departments: frozenset[int] = frozenset()
    teams: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class HeldRole:
    """A role, and where it holds: in a department, in a team, or everywhere."""

    role: str
    department_id: int | None = None
    team_id: int | None = None

    def covers(self, scope: Scope) -> bool:
        """Whether the role holds there."""
        if self.role in PLATFORM_ROLES:
            return True
        return self.department_id in scope.departments or self.team_id in scope.teams


@dataclass(frozen=True, slots=True)
class Access:
    """What one person may do, as of the moment it was read."""

    roles: tuple[HeldRole, ...] = ()

    def may(self, action: Action, target: models.Model | Scope | None = None) -> bool:
        """Whether `action` is allowed on `target`: an object, also an unsaved one, or a scope.

        Without a target: everywhere, which only roles of the platform can say.
        """
        scope = target if isinstance(target, Scope) else scope_of(target)
        return any(held.covers(scope) for held in self._holding(action))

    def may_somewhere(self, action: Action) -> bool:
        """Whether there is any place at all: for menus. Each object is asked for by `may`."""
        return bool(self._holding(action))

    def may_give(self, membership: Member) -> bool:
        """Whether this person may make, change or end `membership`: no role above the own, none elsewhere."""
        scope = scope_of(membership)
        return any(
            membership.role in GIVES_ROLES.get(held.role, ()) and held.covers(scope)
            for held in self._holding(Action.MEMBER_MANAGE)
        )

    def visible(self, rows: "models.QuerySet[Row]") -> "models.QuerySet[Row]":
        """Those of `rows` that exist for this person."""
        rights = MODEL_RIGHTS[rows.model._meta.label_lower]
        holding = self._holding(rights.view)
        if any(held.role in PLATFORM_ROLES for held in holding):
            return rows
        departments = {held.department_id for held in holding} - {None}
        teams = {held.team_id for held in holding} - {None}
        wanted = [
            Q(**{f"{path}__in": ids})
            for paths, ids in ((rights.departments, departments), (rights.teams, teams))
            for path in paths
            if ids
        ]
        if not wanted:
            return rows.none()
        return _any_of(rows, wanted, to_many=rights.to_many)

    def _holding(self, action: Action) -> list[HeldRole]:
        return [held for held in self.roles if action in ROLE_ACTIONS[held.role]]


NO_ACCESS = Access()


def access_of(user: Any) -> Access:
    """What `user` may do: nothing for nobody and for a closed account. Read once for each request's user."""
    if not user.is_authenticated or not user.is_active:
        return NO_ACCESS
    remembered: Access | None = getattr(user, _REMEMBERED, None)
    if remembered is None:
        remembered = _read_access(user)
        setattr(user, _REMEMBERED, remembered)  # through request.user, which is lazy, to the user itself
    return remembered


def scope_of(target: models.Model | None) -> Scope:
    """Where an object belongs."""
    if target is None:
        return Scope()
    rights = MODEL_RIGHTS[target._meta.label_lower]
    return Scope(_ids(target, rights.departments), _ids(target, rights.teams))


def _read_access(user: Any) -> Access:
    roles = [HeldRole(row.role, row.department_id, row.team_id) for row in list_memberships(user)]
    if user.is_superuser:
        roles.append(HeldRole(Role.PLATFORM_ADMIN))
    return Access(tuple(roles))


def _any_of(rows: "models.QuerySet[Row]", wanted: list[Q], *, to_many: bool) -> "models.QuerySet[Row]":
    either = wanted[0]
    for condition in wanted[1:]:
        either |= condition
    if to_many:  # by id, so that no row comes twice
        return rows.filter(pk__in=rows.model._default_manager.order_by().filter(either).values("pk"))
    return rows.filter(either)


def _ids(target: models.Model, paths: Iterable[str]) -> frozenset[int]:
    return frozenset(found for path in paths for found in _follow(target, path))


def _follow(target: Any, path: str) -> set[int]:
    name, _, rest = path.partition("__")
    value = getattr(target, name)
    if isinstance(value, models.Manager):
        return set(value.order_by().values_list(rest, flat=True))
    if rest and value is not None:
        return _follow(value, rest)
    return set() if value is None else {value}
