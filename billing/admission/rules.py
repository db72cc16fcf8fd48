"""Limits and budgets as plain values, and which of them apply to a call.

A rule's counter is named by what it counts (whose, of which model, what, in which window), never by the rule's
id: who edits an amount keeps the usage. Every name is relative to the department's epoch (see ADR 0013).
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from zoneinfo import ZoneInfo

import msgspec

from billing.admission.windows import Period, Window, window_at

EVERY_USER = "*"
MOST_AMOUNT = 9 * 10**18  # what the store's 64-bit counters hold, with room to add
MOST_RATE = 10**11  # per minute; a bucket's level times 60,000 stays exact in the store's doubles
_EXACT = 2**53
_MOST_PLANS = 20_000


class Scope(StrEnum):
    """Whose rule it is; the letter is part of counter names."""

    DEPARTMENT = "d"
    TEAM = "t"
    APPLICATION = "a"
    KEY = "k"


class Unit(StrEnum):
    """What a budget counts: nano-dollars, or tokens of prompt and answer."""

    MONEY = "money"
    TOKENS = "tokens"


class Rate(StrEnum):
    """What a limit bounds."""

    REQUESTS = "rpm"
    TOKENS = "tpm"
    CONCURRENCY = "concurrency"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose rule it is. `name` is shown to the refused."""

    scope: Scope
    id: int
    name: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `amount` requests or tokens per minute, or requests at a time.

    `end_user`: empty for the owner's calls as a whole, `*` for each of its end users, or one end user's name,
    which goes before `*`. `model`: empty for all models.
    """

    id: int
    owner: Owner
    rate: Rate
    amount: int
    end_user: str = ""
    model: str = ""

    def name(self, call: "Dimensions") -> str:
        """The name of the counter that counts `call`."""
        subject = _subject(self, call)
        if self.rate is Rate.CONCURRENCY:
            return f"k:{subject}"
        return f"b:{subject}:{self.rate}"


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `amount` nano-dollars or tokens per calendar window; a soft one only counts. For `end_user` and
    `model` see Limit."""

    id: int
    owner: Owner
    unit: Unit
    period: Period
    amount: int
    is_hard: bool = True
    end_user: str = ""
    model: str = ""

    def name(self, call: "Dimensions", window: Window) -> str:
        """The name of the counter that counts `call` in one window."""
        return f"c:{_subject(self, call)}:{self.unit}:{self.period}:{window.start}"


Rule = Limit | Budget


def user_part(user: str) -> str:
    """An end user in the name of a counter."""
    return "u" + hashlib.blake2b(user.encode(), digest_size=12).hexdigest()


def _subject(rule: Rule, call: "Dimensions") -> str:
    parts = [rule.owner.scope.value, str(rule.owner.id)]
    if rule.end_user == EVERY_USER and call.is_other_user:
        parts.append(f"o{call.api_key_id}")
    elif rule.end_user:
        parts.append(user_part(call.end_user))
    if rule.model:
        parts.append("m" + rule.model)
    return ":".join(parts)


class Dimensions(msgspec.Struct, frozen=True, array_like=True):
    """Who calls what: all that decides which rules apply. None and empty: there is none.

    `is_other_user`: the key named more end users that day than have counters of their own, and this one is counted
    together with its others. A rule for one end user by name counts them by themself all the same.
    """

    department_id: int
    team_id: int
    application_id: int | None
    api_key_id: int | None
    end_user: str
    model: str
    is_other_user: bool = False

    def has(self, owner: Owner) -> bool:
        """Whether `owner` is the department, team, application or key of this call."""
        ids = {
            Scope.DEPARTMENT: self.department_id,
            Scope.TEAM: self.team_id,
            Scope.APPLICATION: self.application_id,
            Scope.KEY: self.api_key_id,
        }
        return ids[owner.scope] == owner.id


@dataclass(frozen=True, slots=True)
class Plan:
    """What the store is to check and count for one caller, while `start <= moment < end` (seconds).

    `ends` are those of the windows, 0 for limits. `entries` is packed for the scripts: kind, counter name, limit
    and end of window of each rule in turn. `user`: key and end user where the latter has counters of their own.
    """

    rules: tuple[Rule, ...]
    names: tuple[str, ...]
    ends: tuple[int, ...]
    entries: bytes
    start: int
    end: int
    user: str = ""

    @property
    def is_hard(self) -> bool:
        """Whether a hard budget is among the rules."""
        return any(isinstance(rule, Budget) and rule.is_hard for rule in self.rules)


@dataclass(slots=True)
class RuleBook:
    """The rules of one department as they stand with epoch `epoch`.

    A rule that needs a counter of its own, another time zone, or a team that comes or goes make a new epoch, so
    within one the names of what is counted never change.
    """

    department_id: int
    epoch: int
    zone: ZoneInfo
    rules: tuple[Rule, ...]
    team_ids: frozenset[int] = frozenset()
    _plans: dict[Dimensions, Plan] = field(default_factory=dict, repr=False, compare=False)
    _by_owner: Mapping[tuple[Scope, int], tuple[Rule, ...]] = field(init=False, repr=False, compare=False)
    _names_users: bool = field(init=False, repr=False, compare=False)
    _named_users: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Sort the rules by owner."""
        by_owner: dict[tuple[Scope, int], tuple[Rule, ...]] = {}
        for rule in self.rules:
            place = rule.owner.scope, rule.owner.id
            by_owner[place] = (*by_owner.get(place, ()), rule)
        self._by_owner = by_owner
        self._names_users = any(rule.end_user for rule in self.rules)
        self._named_users = frozenset(rule.end_user for rule in self.rules)

    def says_as(self, other: "RuleBook") -> bool:
        """Whether both say the same, also to the refused, who are told the owners' names."""
        return self == other and all(
            mine.owner.name == theirs.owner.name for mine, theirs in zip(self.rules, other.rules, strict=True)
        )

    def applying(self, call: Dimensions) -> tuple[Rule, ...]:
        """The rules that count a call, widest owner first."""
        owners = (
            (Scope.DEPARTMENT, call.department_id),
            (Scope.TEAM, call.team_id),
            (Scope.APPLICATION, call.application_id),
            (Scope.KEY, call.api_key_id),
        )
        found: list[Rule] = []
        for scope, number in owners:
            if number is not None:
                found += _matching(self._by_owner.get((scope, number), ()), call)
        return tuple(found)

    def plan(self, call: Dimensions, moment_s: int) -> Plan:
        """The plan for a call at `moment_s`; kept, as callers come again."""
        if call.end_user and not self._names_users:  # else any caller could make as many plans as names
            call = msgspec.structs.replace(call, end_user="")
        elif call.is_other_user and call.end_user not in self._named_users:
            call = msgspec.structs.replace(call, end_user=EVERY_USER)
        plan = self._plans.get(call)
        if plan is None or not plan.start <= moment_s < plan.end:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            plan = self._plans[call] = self._make_plan(call, moment_s)
        return plan

    def counters(self, call: Dimensions, moment_s: int) -> Iterator[tuple[str, Unit, int]]:
        """Name, unit and end of window (seconds) of every budget's counter that a call at `moment_s` counts in."""
        for rule in self.applying(call):
            if isinstance(rule, Budget):
                window = window_at(rule.period, self.zone, moment_s)
                yield rule.name(call, window), rule.unit, window.end

    def periods(self) -> frozenset[Period]:
        """The periods that budgets of this book have."""
        return frozenset(rule.period for rule in self.rules if isinstance(rule, Budget))

    def _make_plan(self, call: Dimensions, moment_s: int) -> Plan:
        rules = self.applying(call)
        windows = {
            rule.period: window_at(rule.period, self.zone, moment_s)
            for rule in rules
            if isinstance(rule, Budget)
        }
        names: list[str] = []
        entries: list[str | int] = []
        for rule in rules:
            if isinstance(rule, Budget):
                window = windows[rule.period]
                names.append(rule.name(call, window))
                entries += [_budget_kind(rule), names[-1], _exact(rule.amount), window.end]
            else:
                names.append(rule.name(call))
                entries += [_LIMIT_KINDS[rule.rate], names[-1], rule.amount, 0]
        return Plan(
            rules=rules,
            names=tuple(names),
            ends=tuple(windows[rule.period].end if isinstance(rule, Budget) else 0 for rule in rules),
            entries=msgspec.msgpack.encode(entries),
            start=max((window.start for window in windows.values()), default=0),
            end=min((window.end for window in windows.values()), default=2**40),
            user=_own_user(rules, call),
        )


_LIMIT_KINDS = {Rate.REQUESTS: "R", Rate.TOKENS: "K", Rate.CONCURRENCY: "C"}


def _own_user(rules: Iterable[Rule], call: Dimensions) -> str:
    if call.is_other_user or not any(rule.end_user == EVERY_USER for rule in rules):
        return ""
    return f"{call.api_key_id} {user_part(call.end_user)}"


def _budget_kind(budget: Budget) -> str:
    letter = "M" if budget.unit is Unit.MONEY else "T"
    return letter if budget.is_hard else letter.lower()


def _exact(amount: int) -> int | str:
    """A number where a double holds it, else its digits."""
    return amount if amount < _EXACT else str(amount)


def _matching(rules: Iterable[Rule], call: Dimensions) -> list[Rule]:
    """Those for this model and end user; a rule for one user by name goes before the one for every user."""
    found: dict[tuple[object, ...], Rule] = {}
    for rule in rules:
        if rule.model not in ("", call.model):
            continue
        if rule.end_user and (not call.end_user or rule.end_user not in (EVERY_USER, call.end_user)):
            continue
        what = (rule.unit, rule.period) if isinstance(rule, Budget) else (rule.rate,)
        place = (*what, rule.model, bool(rule.end_user))
        # A user may call themself "*"; the rule they fall under is then the one for every user.
        if place not in found or found[place].end_user == EVERY_USER:
            found[place] = rule
    return list(found.values())
