"""Departments, their teams, keys and end users, and rules that people edit meanwhile."""

from dataclasses import dataclass, field, replace
from random import Random
from zoneinfo import ZoneInfo

from django.db import connection

from billing.admission.rules import Budget, Dimensions, Limit, Owner, Rate, Rule, RuleBook, Scope, Unit
from billing.admission.windows import Period

ZONES = [ZoneInfo(name) for name in ("UTC", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe")]
SCALES = [100, 10**6, 10**14, 2**53 // 3, 5 * 10**16]
USERS = ["", "ann", "bob"]
MODELS = ["large", "small"]


@dataclass
class Tenants:
    """Who may call, and what rules there are; `departments` are rows of the database."""

    rng: Random
    departments: tuple[int, ...]
    has_moved: bool = False
    zones: dict[int, ZoneInfo] = field(default_factory=dict)
    teams: dict[int, int] = field(default_factory=dict)  # id: its department
    rules: list[Rule] = field(default_factory=list)
    _number: int = 0
    _books: dict[int, RuleBook] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scale = self.rng.choice(SCALES)
        self.is_tight = self.rng.random() < 0.6
        for place, department in enumerate(self.departments):
            self.zones[department] = self.rng.choice(ZONES)
            self.teams |= {2 * place + 1: department, 2 * place + 2: department}
            self.rules.append(self._budget(Owner(Scope.DEPARTMENT, department)))
            self.raise_epoch(department)
        for _ in range(self.rng.randint(3, 9)):
            self.rules.append(self.draw_rule())
        self._drop_twins()

    def draw_call(self) -> Dimensions:
        """Who calls what."""
        team = self.rng.choice(list(self.teams))
        return Dimensions(
            self.teams[team],
            team,
            self.rng.choice([None, team * 10 + 5]),
            team * 10 + self.rng.randint(1, 2),
            self.rng.choice(USERS),
            self.rng.choice(MODELS),
        )

    def draw_rule(self) -> Rule:
        """Some rule of some level."""
        team = self.rng.choice(list(self.teams))
        owner = self.rng.choice(
            [
                Owner(Scope.DEPARTMENT, self.teams[team]),
                Owner(Scope.TEAM, team),
                Owner(Scope.TEAM, team),
                Owner(Scope.APPLICATION, team * 10 + 5),
                Owner(Scope.KEY, team * 10 + self.rng.randint(1, 2)),
            ]
        )
        if self.rng.random() < 0.15:
            self._number += 1
            rate = self.rng.choice(list(Rate))
            amount = (
                3
                if rate is Rate.CONCURRENCY
                else self.rng.choice([8, 100]) * (50 if rate is Rate.TOKENS else 1)
            )
            return Limit(self._number, owner, rate, amount)
        return self._budget(owner)

    def _budget(self, owner: Owner) -> Budget:
        self._number += 1
        unit = self.rng.choice([Unit.MONEY, Unit.MONEY, Unit.TOKENS])
        return Budget(
            id=self._number,
            owner=owner,
            unit=unit,
            period=self.rng.choice(list(Period)),
            amount=self._amount(unit),
            is_hard=self.rng.random() < 0.85,
            end_user=self.rng.choice(["", "", "", "*", "ann"]) if owner.scope is not Scope.DEPARTMENT else "",
            model=self.rng.choice(["", "", "large"]) if owner.scope is not Scope.DEPARTMENT else "",
        )

    def _amount(self, unit: Unit) -> int:
        return self.rng.randint(3, 8 if self.is_tight else 40) * (self.scale if unit is Unit.MONEY else 100)

    # --- what people do ----------------------------------------------------------------------------

    def edit(self) -> None:
        """Someone changes the rules."""
        self.forget()
        action = self.rng.choice(["amount", "amount", "add", "remove", "zone", "move"])
        place = self.rng.randrange(len(self.rules))
        if action == "amount":
            rule = self.rules[place]
            if isinstance(rule, Budget):
                self.rules[place] = replace(
                    rule, amount=self._amount(rule.unit), is_hard=self.rng.random() < 0.85
                )
        elif action == "add":
            self.rules.append(rule := self.draw_rule())
            self._drop_twins()
            if isinstance(rule, Budget):
                self.raise_epoch(self.department_of(rule))
        elif action == "remove":
            if place >= len(self.departments):
                del self.rules[place]
        elif action == "zone":
            department = self.rng.choice(self.departments)
            self.zones[department] = self.rng.choice(ZONES)
            self.raise_epoch(department)
        else:
            self._move()

    def _move(self) -> None:
        team = self.rng.choice(list(self.teams))
        before = self.teams[team]
        self.teams[team] = next(other for other in self.departments if other != before)
        self.has_moved = True
        for department in self.departments:
            self.raise_epoch(department)

    def _drop_twins(self) -> None:
        """The database has one rule for one thing."""
        kept: dict[object, Rule] = {}
        for rule in self.rules:
            what = (rule.unit, rule.period) if isinstance(rule, Budget) else rule.rate
            kept.setdefault((rule.owner, what, rule.end_user, rule.model), rule)
        self.rules = list(kept.values())

    # --- what processes read -----------------------------------------------------------------------

    def department_of(self, rule: Rule) -> int:
        scope, number = rule.owner.scope, rule.owner.id
        if scope is Scope.DEPARTMENT:
            return number
        return self.teams[number if scope is Scope.TEAM else number // 10]

    def book_of(self, department_id: int) -> RuleBook:
        """As read_book; read again only after `forget`."""
        if department_id not in self._books:
            self._books[department_id] = self._read_book(department_id)
        return self._books[department_id]

    def forget(self) -> None:
        """Rules or epochs have changed."""
        self._books.clear()

    def _read_book(self, department_id: int) -> RuleBook:
        with connection.cursor() as cursor:
            cursor.execute("SELECT n FROM billing_departmentepoch WHERE department_id = %s", [department_id])
            (epoch,) = cursor.fetchone()
        return RuleBook(
            department_id=department_id,
            epoch=epoch,
            zone=self.zones[department_id],
            rules=tuple(rule for rule in self.rules if self.department_of(rule) == department_id),
            team_ids=frozenset(team for team, owner in self.teams.items() if owner == department_id),
        )

    def raise_epoch(self, department_id: int) -> None:
        self.forget()
        with connection.cursor() as cursor:
            cursor.execute("SELECT billing_raise_epoch(%s)", [department_id])
