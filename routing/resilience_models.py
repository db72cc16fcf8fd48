"""What operators say about failures: when a backend is left alone, and which model serves in place of another."""

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Q

from outbound.breaker import Rule, parse_statuses

MOST_INTERVAL_S = 3600
MOST_RULE_TRIP_S = 24 * 3600
_STATUSES = "0, 401, 403-404, 407, 429, 500-599"


def validate_statuses(text: str) -> None:
    """Raises ValidationError for what is no list of ranges."""
    try:
        parse_statuses(text)
    except ValueError as error:
        raise ValidationError(str(error)) from None


class BreakerRule(models.Model):
    """When a backend is left alone. It may have several: the first that is met trips it, the longest trip holds. A
    backend without any has the usual one."""

    backend = models.ForeignKey("routing.Backend", on_delete=models.CASCADE, related_name="breaker_rules")
    name = models.CharField(
        max_length=32, validators=[RegexValidator(r"\A[a-z0-9-]+\Z", "Use a-z, 0-9 and hyphens.")]
    )
    failures = models.PositiveIntegerField(
        default=5,
        validators=[MinValueValidator(1)],
        help_text="It trips when within the interval at least so many calls failed,",
    )
    percent = models.PositiveSmallIntegerField(
        default=50,
        validators=[MaxValueValidator(100)],
        help_text="and at least so many of a hundred calls. 0: whatever the share.",
    )
    interval_s = models.PositiveIntegerField(
        default=10, validators=[MinValueValidator(1), MaxValueValidator(MOST_INTERVAL_S)]
    )
    trip_s = models.PositiveIntegerField(
        default=10,
        validators=[MinValueValidator(1), MaxValueValidator(MOST_RULE_TRIP_S)],
        help_text="How long it is left alone at first; after each failed probe in a row twice as long.",
    )
    statuses = models.CharField(
        max_length=200,
        default=_STATUSES,
        validators=[validate_statuses],
        help_text="Which answers are failures, as statuses and ranges: 429, 500-599. 0 stands for no answer.",
    )

    class Meta:
        ordering = ["backend__name", "name"]
        constraints = [
            models.UniqueConstraint(fields=["backend", "name"], name="breakerrule_once"),
            models.CheckConstraint(
                condition=Q(failures__gte=1, percent__lte=100)
                & Q(interval_s__gte=1, interval_s__lte=MOST_INTERVAL_S)
                & Q(trip_s__gte=1, trip_s__lte=MOST_RULE_TRIP_S),
                name="breakerrule_bounded",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} of {self.backend}"

    def to_rule(self) -> Rule:
        """As the breaker takes it. Raises ValueError for statuses that the form would have refused."""
        return Rule(
            failures=self.failures,
            percent=self.percent,
            interval_s=self.interval_s,
            trip_s=float(self.trip_s),
            statuses=parse_statuses(self.statuses),
        )


class FallbackCause(models.TextChoices):
    """Why another model serves."""

    ANY = "any", "No backend of the model can answer"
    CONTEXT = "context", "The prompt is too long for the model"
    CONTENT = "content", "The provider refuses the content"


class Fallback(models.Model):
    """Another model that serves in place of one, for callers who may use both. Several of the same cause are tried in
    their order."""

    model = models.ForeignKey("routing.CatalogueModel", on_delete=models.CASCADE, related_name="fallbacks")
    cause = models.CharField(max_length=16, choices=FallbackCause, default=FallbackCause.ANY)
    position = models.PositiveSmallIntegerField(default=1, help_text="Lower comes first.")
    to = models.ForeignKey(
        "routing.CatalogueModel",
        on_delete=models.CASCADE,
        related_name="serves_for",
        help_text="Who calls must be granted this model as well, else it is passed over.",
    )

    class Meta:
        ordering = ["model__name", "cause", "position"]
        constraints = [
            models.UniqueConstraint(fields=["model", "cause", "to"], name="fallback_once"),
            models.CheckConstraint(
                condition=~Q(model=F("to")),
                name="fallback_to_another",
                violation_error_message="A model does not serve in place of itself.",
            ),
            models.CheckConstraint(condition=Q(cause__in=FallbackCause.values), name="fallback_cause_known"),
        ]

    def __str__(self) -> str:
        return f"{self.to} for {self.model} ({self.cause})"


class Suit(models.TextChoices):
    """What kind of request a model suits."""

    SIMPLE = "simple", "Simple ones"
    MEDIUM = "medium", "Those between"
    COMPLEX = "complex", "Complex ones"
    CODE = "code", "Those about code"


class ContentRoute(models.Model):
    """Makes a model pass each request on to another one that suits it. A model that has any is served by those, not by
    backends of its own."""

    model = models.ForeignKey(
        "routing.CatalogueModel", on_delete=models.CASCADE, related_name="content_routes"
    )
    suit = models.CharField(max_length=16, choices=Suit)
    to = models.ForeignKey(
        "routing.CatalogueModel",
        on_delete=models.CASCADE,
        related_name="chosen_by",
        help_text="Who calls must be granted this model as well, else another one is taken.",
    )

    class Meta:
        ordering = ["model__name", "suit"]
        constraints = [
            models.UniqueConstraint(fields=["model", "suit"], name="contentroute_once"),
            models.CheckConstraint(
                condition=~Q(model=F("to")),
                name="contentroute_to_another",
                violation_error_message="A model does not pass requests on to itself.",
            ),
            models.CheckConstraint(condition=Q(suit__in=Suit.values), name="contentroute_suit_known"),
        ]

    def __str__(self) -> str:
        return f"{self.to} for {self.get_suit_display().lower()} of {self.model}"
