"""Limits and budgets, and the epochs that their counters are kept in."""

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from billing.admission.rules import EVERY_USER, MOST_AMOUNT, MOST_RATE

_OWNERS = ("department", "team", "application", "api_key")


class LimitKind(models.TextChoices):
    """What a limit bounds."""

    REQUESTS = "rpm", "Requests per minute"
    TOKENS = "tpm", "Tokens per minute"
    CONCURRENCY = "concurrency", "Requests at a time"


class BudgetUnit(models.TextChoices):
    """What a budget counts."""

    MONEY = "money", "Nano-dollars"
    TOKENS = "tokens", "Tokens of prompt and answer"


class BudgetPeriod(models.TextChoices):
    """How long a budget's window is; windows are of the calendar, in the department's time zone."""

    HOUR = "hour", "Hour"
    DAY = "day", "Day"
    WEEK = "week", "Week (from Monday)"
    MONTH = "month", "Month"
    YEAR = "year", "Year"


def _one_owner() -> Q:
    """Exactly one of the owners is given."""
    given = Q()
    for owner in _OWNERS:
        given |= Q(**{f"{other}__isnull": other != owner for other in _OWNERS})
    return given


def _owner(model: str, plural: str) -> "models.ForeignKey[models.Model | None, models.Model | None]":
    return models.ForeignKey(model, on_delete=models.CASCADE, null=True, blank=True, related_name=plural)


class _OwnedRule(models.Model):
    """Whose rule it is, and which of its owner's calls it counts."""

    end_user = models.CharField(
        max_length=200,
        blank=True,
        help_text=f"Empty: the owner's calls as a whole. {EVERY_USER}: each of its end users. Else one end user, "
        f"who then has this instead of {EVERY_USER}.",
    )
    model = models.CharField(max_length=128, blank=True, help_text="Only calls of this model. Empty: of all.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        abstract = True

    def clean(self) -> None:
        """Exactly one owner (the database checks it too)."""
        if sum(getattr(self, f"{owner}_id") is not None for owner in _OWNERS) != 1:
            raise ValidationError("Choose one owner: a department, a team, an application or an API key.")

    def _subject(self) -> str:
        owner = next(getattr(self, owner) for owner in _OWNERS if getattr(self, f"{owner}_id") is not None)
        parts = [str(owner), self.end_user and f"end user {self.end_user}", self.model]
        return ", ".join(part for part in parts if part)


class Limit(_OwnedRule):
    """At most so many requests or tokens per minute, or requests at a time."""

    department = _owner("teams.Department", "limits")
    team = _owner("teams.Team", "limits")
    application = _owner("teams.Application", "limits")
    api_key = _owner("teams.ApiKey", "limits")
    kind = models.CharField(max_length=16, choices=LimitKind)
    amount = models.BigIntegerField(validators=[MinValueValidator(1), MaxValueValidator(MOST_RATE)])

    class Meta:
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(condition=_one_owner(), name="limit_one_owner"),
            models.CheckConstraint(condition=Q(kind__in=LimitKind.values), name="limit_kind_known"),
            models.CheckConstraint(
                condition=Q(amount__gte=1, amount__lte=MOST_RATE), name="limit_amount_bounded"
            ),
            models.UniqueConstraint(
                fields=[*_OWNERS, "end_user", "model", "kind"], name="limit_once", nulls_distinct=False
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount} {self.get_kind_display().lower()} of {self._subject()}"


class Budget(_OwnedRule):
    """At most so much money or so many tokens per calendar window; a soft one only warns.

    `amount` is in nano-dollars (1e-9 USD) or in tokens. Editing it, or hard and soft, keeps what was used.
    """

    department = _owner("teams.Department", "budgets")
    team = _owner("teams.Team", "budgets")
    application = _owner("teams.Application", "budgets")
    api_key = _owner("teams.ApiKey", "budgets")
    unit = models.CharField(max_length=16, choices=BudgetUnit)
    period = models.CharField(max_length=16, choices=BudgetPeriod)
    amount = models.BigIntegerField(validators=[MinValueValidator(1), MaxValueValidator(MOST_AMOUNT)])
    is_hard = models.BooleanField(
        default=True, help_text="A hard budget refuses calls; a soft one only warns."
    )

    class Meta:
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(condition=_one_owner(), name="budget_one_owner"),
            models.CheckConstraint(condition=Q(unit__in=BudgetUnit.values), name="budget_unit_known"),
            models.CheckConstraint(condition=Q(period__in=BudgetPeriod.values), name="budget_period_known"),
            models.CheckConstraint(
                condition=Q(amount__gte=1, amount__lte=MOST_AMOUNT), name="budget_amount_bounded"
            ),
            models.UniqueConstraint(
                fields=[*_OWNERS, "end_user", "model", "unit", "period"],
                name="budget_once",
                nulls_distinct=False,
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount} {self.unit} per {self.period} of {self._subject()}"


class DepartmentEpoch(models.Model):
    """The number under which a department's counters are kept in the store.

    Triggers raise it when a rule needs a counter that nobody has kept so far, when the time zone changes, and
    when a team comes or goes; a rebuild of lost counters raises it too. Numbers come from a sequence and never
    repeat.
    """

    department = models.OneToOneField(
        "teams.Department", on_delete=models.CASCADE, primary_key=True, related_name="epoch"
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
