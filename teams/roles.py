"""The table of rights: what may be done, by which role, and which right each model needs. Data, no logic.

docs/reference/roles.md is this table for people; tests/test_permissions.py holds both together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from teams.models import PLATFORM_ROLES, TEAM_ROLES, Role


class Action(StrEnum):
    """Something that a person may or may not do: the object, a dot, the verb."""

    ADMINISTRATION_ENTER = "administration.enter"
    DEPARTMENT_VIEW = "department.view"
    DEPARTMENT_MANAGE = "department.manage"
    TEAM_VIEW = "team.view"
    TEAM_MANAGE = "team.manage"
    APPLICATION_VIEW = "application.view"
    APPLICATION_MANAGE = "application.manage"
    MEMBER_VIEW = "member.view"
    MEMBER_MANAGE = "member.manage"
    PERSON_VIEW = "person.view"
    PERSON_MANAGE = "person.manage"
    KEY_VIEW = "key.view"
    KEY_CREATE = "key.create"
    KEY_CHANGE = "key.change"
    KEY_PAUSE = "key.pause"
    KEY_ROTATE = "key.rotate"
    KEY_REVOKE = "key.revoke"
    MODEL_VIEW = "model.view"
    MODEL_MANAGE = "model.manage"
    GRANT_VIEW = "grant.view"
    GRANT_MANAGE = "grant.manage"
    BACKEND_VIEW = "backend.view"
    BACKEND_MANAGE = "backend.manage"
    BACKEND_DRAIN = "backend.drain"
    ROUTE_VIEW = "route.view"
    ROUTE_MANAGE = "route.manage"
    PRICE_VIEW = "price.view"
    PRICE_MANAGE = "price.manage"
    LIMIT_VIEW = "limit.view"
    LIMIT_MANAGE = "limit.manage"
    BUDGET_VIEW = "budget.view"
    BUDGET_MANAGE = "budget.manage"
    GUARD_VIEW = "guard.view"
    GUARD_MANAGE = "guard.manage"
    LEDGER_VIEW = "ledger.view"
    SHIPPING_VIEW = "shipping.view"
    EVENT_VIEW = "event.view"


A = Action
_VIEWER = frozenset(
    {
        A.TEAM_VIEW,
        A.APPLICATION_VIEW,
        A.MEMBER_VIEW,
        A.KEY_VIEW,
        A.MODEL_VIEW,
        A.GRANT_VIEW,
        A.LEDGER_VIEW,
    }
)
_TEAM_MEMBER = _VIEWER | {A.KEY_CREATE, A.KEY_PAUSE, A.KEY_ROTATE}
_TEAM_OWNER = _TEAM_MEMBER | {A.KEY_CHANGE, A.KEY_REVOKE, A.APPLICATION_MANAGE, A.MEMBER_MANAGE}
_DEPARTMENT_MANAGER = _TEAM_OWNER | {A.DEPARTMENT_VIEW, A.TEAM_MANAGE}
_FINANCE = frozenset(
    {
        A.ADMINISTRATION_ENTER,
        A.DEPARTMENT_VIEW,
        A.TEAM_VIEW,
        A.APPLICATION_VIEW,
        A.MEMBER_VIEW,
        A.KEY_VIEW,
        A.PRICE_VIEW,
        A.LIMIT_VIEW,
        A.BUDGET_VIEW,
        A.LEDGER_VIEW,
        A.SHIPPING_VIEW,
    }
)
_SECURITY_AUDITOR = {action for action in A if action.endswith(".view")} | {A.ADMINISTRATION_ENTER}

ROLE_ACTIONS: Mapping[str, frozenset[Action]] = MappingProxyType(
    {
        Role.PLATFORM_ADMIN: frozenset(A),
        Role.SECURITY_AUDITOR: frozenset(_SECURITY_AUDITOR),
        Role.FINANCE: _FINANCE,
        Role.DEPARTMENT_MANAGER: _DEPARTMENT_MANAGER,
        Role.TEAM_OWNER: _TEAM_OWNER,
        Role.TEAM_MEMBER: _TEAM_MEMBER,
        Role.VIEWER: _VIEWER,
    }
)

# Nobody gives a role above the own one. Where it may be given, the giver's scope says.
GIVES_ROLES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        Role.PLATFORM_ADMIN: frozenset({*PLATFORM_ROLES, Role.DEPARTMENT_MANAGER, *TEAM_ROLES}),
        Role.DEPARTMENT_MANAGER: frozenset({Role.DEPARTMENT_MANAGER, *TEAM_ROLES}),
        Role.TEAM_OWNER: frozenset(TEAM_ROLES),
    }
)


@dataclass(frozen=True, slots=True)
class ModelRights:
    """What a model's rows need, and where they belong.

    `None`: nobody may. `departments` and `teams` are look-ups from a row to the ids it belongs to; a row
    without any belongs to the platform, and only roles of the platform reach it.
    """

    view: Action
    add: Action | None = None
    change: Action | None = None
    delete: Action | None = None
    departments: tuple[str, ...] = ()
    teams: tuple[str, ...] = ()
    to_many: bool = False


def _managed(
    view: Action,
    manage: Action,
    departments: tuple[str, ...] = (),
    teams: tuple[str, ...] = (),
    *,
    to_many: bool = False,
) -> ModelRights:
    return ModelRights(view, manage, manage, manage, departments, teams, to_many)


_DEPARTMENT, _TEAM = ("team__department_id",), ("team_id",)

MODEL_RIGHTS: Mapping[str, ModelRights] = MappingProxyType(
    {
        "auth.user": _managed(A.PERSON_VIEW, A.PERSON_MANAGE),
        "teams.department": _managed(A.DEPARTMENT_VIEW, A.DEPARTMENT_MANAGE, departments=("pk",)),
        "teams.team": _managed(A.TEAM_VIEW, A.TEAM_MANAGE, departments=("department_id",), teams=("pk",)),
        "teams.application": _managed(A.APPLICATION_VIEW, A.APPLICATION_MANAGE, _DEPARTMENT, _TEAM),
        "teams.member": _managed(
            A.MEMBER_VIEW,
            A.MEMBER_MANAGE,
            departments=("department_id", "team__department_id"),
            teams=("team_id",),
        ),
        # A key is revoked, never deleted: the ledger can always say whose it was.
        "teams.apikey": ModelRights(A.KEY_VIEW, A.KEY_CREATE, A.KEY_CHANGE, None, _DEPARTMENT, _TEAM),
        # Whoever uses a model may know it; a team knows those it was granted.
        "routing.cataloguemodel": _managed(
            A.MODEL_VIEW,
            A.MODEL_MANAGE,
            departments=("grants__team__department_id",),
            teams=("grants__team_id",),
            to_many=True,
        ),
        "routing.modelalias": _managed(
            A.MODEL_VIEW,
            A.MODEL_MANAGE,
            departments=("model__grants__team__department_id",),
            teams=("model__grants__team_id",),
            to_many=True,
        ),
        "routing.grant": _managed(A.GRANT_VIEW, A.GRANT_MANAGE, _DEPARTMENT, _TEAM),
        "routing.backend": _managed(A.BACKEND_VIEW, A.BACKEND_MANAGE),
        "routing.breakerrule": _managed(A.BACKEND_VIEW, A.BACKEND_MANAGE),
        "routing.fallback": _managed(A.ROUTE_VIEW, A.ROUTE_MANAGE),
        "routing.contentroute": _managed(A.ROUTE_VIEW, A.ROUTE_MANAGE),
        "routing.route": _managed(A.ROUTE_VIEW, A.ROUTE_MANAGE),
        "billing.priceentry": _managed(A.PRICE_VIEW, A.PRICE_MANAGE),
        "billing.listprice": ModelRights(A.PRICE_VIEW),
        "guards.guardpolicy": _managed(A.GUARD_VIEW, A.GUARD_MANAGE),
        "guards.guardrule": _managed(A.GUARD_VIEW, A.GUARD_MANAGE),
        "guards.policyteam": _managed(A.GUARD_VIEW, A.GUARD_MANAGE),
        "guards.recogniser": _managed(A.GUARD_VIEW, A.GUARD_MANAGE),
        "guards.externalguard": _managed(A.GUARD_VIEW, A.GUARD_MANAGE),
        # To roles of the platform only, until there are pages for those of departments and teams.
        "billing.limit": _managed(A.LIMIT_VIEW, A.LIMIT_MANAGE),
        "billing.budget": _managed(A.BUDGET_VIEW, A.BUDGET_MANAGE),
        # The department of a record is the one of its day, so a team that moved takes no history along.
        "billing.usagerecord": ModelRights(A.LEDGER_VIEW, departments=("department_id",), teams=("team_id",)),
        "billing.spool": ModelRights(A.SHIPPING_VIEW),
        "billing.usagecorrection": ModelRights(
            A.LEDGER_VIEW, departments=("department_id",), teams=("team_id",)
        ),
        "billing.quarantinedframe": ModelRights(A.SHIPPING_VIEW),
        "audit.adminevent": ModelRights(A.EVENT_VIEW),
    }
)
