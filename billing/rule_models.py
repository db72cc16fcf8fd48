"""Limits and budgets, and the epochs that their counters are kept in."""

from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q

from billing.admission.rules import EVERY_USER, MOST_AMOUNT, MOST_RATE
from billing.money import short_usd
from teams.models import ApiKey, Application, Department, Team

OWNERS = ("department", "team", "application", "api_key")

# Control characters, which the ledger holds none of, and those that turn the direction of what follows them.
_MISLEADING = r"[\u0001-\u001F\u007F-\u009F\u061C\u200E\u200F\u2028-\u202E\u2066-\u2069]"
_validate_end_user = RegexValidator(
    _MISLEADING,
    "Control characters and characters that turn the direction are not allowed.",
    inverse_match=True,
)


class LimitKind(models.TextChoices):
    """What a limit bounds."""

    REQUESTS = "rpm", "requests per minute"
    TOKENS = "tpm", "tokens per minute"
    CONCURRENCY = "concurrency", "requests at a time"


class BudgetUnit(models.TextChoices):
    """What a budget counts."""

    MONEY = "money", "US dollars"
    TOKENS = "tokens", "tokens of prompts and answers"


class BudgetPeriod(models.TextChoices):
    """How long a budget's window is; windows are of the calendar, in the department's time zone."""

    HOUR = "hour", "hour"
    DAY = "day", "day"
    WEEK = "week", "week (from Monday)"
    MONTH = "month", "month"
    YEAR = "year", "year"


def _one_owner(name: str) -> models.CheckConstraint:
    """Exactly one of the owners is given."""
    given = Q()
    for owner in OWNERS:
        given |= Q(**{f"{other}__isnull": other != owner for other in OWNERS})
    return models.CheckConstraint(
        condition=given,
        name=name,
        violation_error_message="Choose one owner: a department, a team, an application or an API key.",
    )


def _end_user_is_plain(name: str) -> models.CheckConstraint:
    return models.CheckConstraint(condition=~Q(end_user__regex=_MISLEADING), name=name)


def _owner(model: str, plural: str, name: str = "") -> Any:
    return models.ForeignKey(
        model, on_delete=models.CASCADE, null=True, blank=True, related_name=plural, verbose_name=name or None
    )


class OwnedRule(models.Model):
    """Whose rule it is, and which of its owner's calls it counts. It goes with its owner, and with its model."""

    department: "models.ForeignKey[Department | None, Department | None]"
    team: "models.ForeignKey[Team | None, Team | None]"
    application: "models.ForeignKey[Application | None, Application | None]"
    api_key: "models.ForeignKey[ApiKey | None, ApiKey | None]"
    end_user = models.CharField(
        max_length=200,
        blank=True,
        validators=[_validate_end_user],
        help_text=f"Empty: the owner's calls as a whole. {EVERY_USER}: each of its end users. Else the one end "
        f"user of that name, who then has this instead of what holds for {EVERY_USER}.",
    )
    # By its name, which is what callers ask for and what the ledger holds; never by an alias.
    model: "models.ForeignKey[models.Model | None, models.Model | None]" = models.ForeignKey(
        "routing.CatalogueModel",
        to_field="name",
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="+",
        help_text="Only calls of this model, also by its aliases. Empty: of all models.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        abstract = True

    def clean(self) -> None:
        """None for an owner that has ended."""
        if self._state.adding and self.api_key is not None and self.api_key.revoked_at is not None:
            raise ValidationError({"api_key": "This key has been revoked."})

    @property
    def owner(self) -> Department | Team | Application | ApiKey:
        """Whose rule it is."""
        owner = self.department or self.team or self.application or self.api_key
        assert owner is not None  # noqa: S101 - a constraint says so
        return owner

    @property
    def owner_noun(self) -> str:
        """The owner's kind."""
        return str(self.owner._meta.verbose_name)

    @property
    def owner_label(self) -> str:
        """The owner's kind and name: team search."""
        return f"{self.owner_noun} {self.owner}"

    @property
    def in_department(self) -> Department:
        """The owner's department, whose time zone and counters hold."""
        owner = self.owner
        if isinstance(owner, Department):
            return owner
        return owner.department if isinstance(owner, Team) else owner.team.department

    @property
    def calls_told(self) -> str:
        """Which of the owner's calls it counts: Each end user, model large."""
        told = ", ".join(self._list_calls()) or "all calls"
        return told[0].upper() + told[1:]

    def _list_calls(self) -> list[str]:
        users = {"": "", EVERY_USER: "each end user"}.get(self.end_user, f"end user {self.end_user}")
        return [part for part in (users, f"model {self.model_id}" if self.model_id else "") if part]

    def _tell(self, what: str) -> str:
        return ", ".join([what, self.owner_label, *self._list_calls()])


class Limit(OwnedRule):
    """At most so many requests or tokens per minute, or requests at a time."""

    department = _owner("teams.Department", "limits")
    team = _owner("teams.Team", "limits")
    application = _owner("teams.Application", "limits")
    api_key = _owner("teams.ApiKey", "limits", "API key")
    kind = models.CharField("what it counts", max_length=16, choices=LimitKind)
    amount = models.BigIntegerField(
        "at most",
        validators=[MinValueValidator(1), MaxValueValidator(MOST_RATE)],
        help_text="A whole number.",
    )

    class Meta:
        ordering = ["id"]
        constraints = [
            _one_owner("limit_one_owner"),
            models.CheckConstraint(condition=Q(kind__in=LimitKind.values), name="limit_kind_known"),
            models.CheckConstraint(
                condition=Q(amount__gte=1, amount__lte=MOST_RATE), name="limit_amount_bounded"
            ),
            _end_user_is_plain("limit_end_user_plain"),
            models.UniqueConstraint(
                fields=[*OWNERS, "end_user", "model", "kind"],
                name="limit_once",
                nulls_distinct=False,
                violation_error_message="There is a limit like this already: change its amount.",
            ),
        ]

    def __str__(self) -> str:
        return self._tell(self.told)

    @property
    def told(self) -> str:
        """The amount and what it counts: 1,000 requests per minute."""
        return f"{self.amount:,} {self.get_kind_display()}"


class Budget(OwnedRule):
    """At most so much money or so many tokens per calendar window; a soft one only warns.

    `amount` is in nano-dollars (1e-9 USD) or in tokens. Editing it, or hard and soft, keeps what was used.
    """

    department = _owner("teams.Department", "budgets")
    team = _owner("teams.Team", "budgets")
    application = _owner("teams.Application", "budgets")
    api_key = _owner("teams.ApiKey", "budgets", "API key")
    unit = models.CharField("what it counts", max_length=16, choices=BudgetUnit)
    period = models.CharField(max_length=16, choices=BudgetPeriod)
    amount = models.BigIntegerField(
        "at most", validators=[MinValueValidator(1), MaxValueValidator(MOST_AMOUNT)]
    )
    is_hard = models.BooleanField(
        "hard", default=True, help_text="A hard budget refuses calls; a soft one only warns."
    )

    class Meta:
        ordering = ["id"]
        constraints = [
            _one_owner("budget_one_owner"),
            models.CheckConstraint(condition=Q(unit__in=BudgetUnit.values), name="budget_unit_known"),
            models.CheckConstraint(condition=Q(period__in=BudgetPeriod.values), name="budget_period_known"),
            models.CheckConstraint(
                condition=Q(amount__gte=1, amount__lte=MOST_AMOUNT), name="budget_amount_bounded"
            ),
            _end_user_is_plain("budget_end_user_plain"),
            models.UniqueConstraint(
                fields=[*OWNERS, "end_user", "model", "unit", "period"],
                name="budget_once",
                nulls_distinct=False,
                violation_error_message="There is a budget like this already: change its amount.",
            ),
        ]

    def __str__(self) -> str:
        return self._tell(f"{self.told} per {self.period}")

    @property
    def told(self) -> str:
        """The amount with its unit: $12.50, or 1,000 tokens."""
        return f"${short_usd(self.amount)}" if self.unit == BudgetUnit.MONEY else f"{self.amount:,} tokens"

    def tell_field(self, name: str) -> str | None:
        """The amount as the trail tells it: money in dollars."""
        return self.told if name == "amount" else None


class DepartmentEpoch(models.Model):
    """The number under which a department's counters are kept in the store.

    Triggers raise it when a rule needs a counter that nobody has kept so far, when the time zone changes, and
    when a team comes or goes; a rebuild of lost counters raises it too. Numbers come from a sequence and never
    repeat.
    """

    # The database lets it go with the department, and only so.
    department = models.OneToOneField(
        "teams.Department", on_delete=models.DO_NOTHING, primary_key=True, related_name="epoch"
    )
    n = models.BigIntegerField()

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(n__gte=1), name="departmentepoch_positive")]

    def __str__(self) -> str:
        return f"epoch {self.n} of department {self.department_id}"


class SweptCall(models.Model):
    """A call whose record the janitor wrote, because its worker was silent.

    The worker, or its disk, may come back and tell the truth: until then what was counted is remembered through
    every rebuild.
    """

    request_id = models.UUIDField(primary_key=True)
    department_id = models.BigIntegerField()
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["at"]
        indexes = [models.Index(fields=["department_id", "at"], name="sweptcall_department")]

    def __str__(self) -> str:
        return str(self.request_id)
