"""The catalogue of models, who may use them, and the backends and routes that serve them."""

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q

from billing.queries import is_listed
from billing.rule_models import Budget, Limit
from outbound.credential_fields import Called
from routing.resilience_models import BreakerRule, ContentRoute, Fallback, FallbackCause, Suit
from teams.key_rules import validate_model_name, validate_tags

__all__ = [
    "Backend",
    "BreakerRule",
    "CatalogueModel",
    "ContentRoute",
    "Fallback",
    "FallbackCause",
    "Grant",
    "ModelAlias",
    "Provider",
    "Route",
    "Strategy",
    "Suit",
]

MOST_WEIGHT = 1000
MOST_QUALITY = 100
MOST_TRIP_S = 24 * 3600
MOST_CHECK_S = 3600
MOST_KEEP_ALIVE_S = 3600


class Strategy(models.TextChoices):
    """Which of several backends of the same priority a call goes to."""

    WEIGHTED = "weighted", "At random, by weight"
    ROUND_ROBIN = "round_robin", "In turn, by weight"
    LEAST_BUSY = "least_busy", "The one with the fewest calls under way, by weight"
    LATENCY = "latency", "The faster of two drawn by weight"
    COST = "cost", "The cheapest"


class CatalogueModel(models.Model):
    """A name in the approved catalogue: what applications ask for. No other model has it as name or alias."""

    name = models.CharField(max_length=128, unique=True, validators=[validate_model_name])
    description = models.CharField(max_length=500, blank=True)
    max_output_tokens = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="The longest answer that may be asked for. Empty: as the gateway's bound.",
    )
    strategy = models.CharField(
        max_length=16,
        choices=Strategy,
        default=Strategy.WEIGHTED,
        db_default=Strategy.WEIGHTED,
        help_text="Which of several backends of the same priority a call goes to.",
    )
    quality_floor = models.PositiveSmallIntegerField(
        default=0,
        db_default=0,
        validators=[MaxValueValidator(MOST_QUALITY)],
        help_text="Backends of a lower quality are only called where none of at least this can be.",
    )
    is_active = models.BooleanField(default=True, help_text="An inactive model is unknown to every caller.")
    created_at = models.DateTimeField(auto_now_add=True)
    backends: "models.ManyToManyField[Backend, Route]" = models.ManyToManyField(
        "Backend", through="Route", related_name="catalogue_models"
    )

    class Meta:
        ordering = ["name"]
        verbose_name = "model"
        constraints = [
            models.CheckConstraint(
                condition=Q(name__regex=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$"),
                name="cataloguemodel_name_form",
            ),
            models.CheckConstraint(
                condition=Q(max_output_tokens=None) | Q(max_output_tokens__gte=1),
                name="cataloguemodel_max_output_tokens_positive",
            ),
            models.CheckConstraint(
                condition=Q(strategy__in=Strategy.values), name="cataloguemodel_strategy_known"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """The name must be nobody's alias (a trigger checks it too), and stays while a rule names the model: what
        was used is in the ledger under that name."""
        if ModelAlias.objects.filter(name=self.name).exists():
            raise ValidationError({"name": f"{self.name} is an alias already."})
        before = CatalogueModel.objects.filter(pk=self.pk).exclude(name=self.name).values("name")
        if any(kind.objects.filter(model__in=before).exists() for kind in (Limit, Budget)):
            raise ValidationError(
                {
                    "name": "The model has limits or budgets, which count by its name. Make another model, or an alias."
                }
            )


class ModelAlias(models.Model):
    """Another name of a model, for callers that ask by it. A trigger keeps aliases and models apart."""

    name = models.CharField(max_length=128, unique=True, validators=[validate_model_name])
    model = models.ForeignKey(CatalogueModel, on_delete=models.CASCADE, related_name="aliases")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "model aliases"
        constraints = [
            models.CheckConstraint(
                condition=Q(name__regex=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$"), name="modelalias_name_form"
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} for {self.model}"

    def clean(self) -> None:
        """The name must be no model's (a trigger checks it too)."""
        if CatalogueModel.objects.filter(name=self.name).exists():
            raise ValidationError({"name": f"{self.name} is a model already."})


class Grant(models.Model):
    """Allows one team to use one model."""

    team = models.ForeignKey("teams.Team", on_delete=models.CASCADE, related_name="grants")
    model = models.ForeignKey(CatalogueModel, on_delete=models.CASCADE, related_name="grants")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["team__slug", "model__name"]
        constraints = [models.UniqueConstraint(fields=["team", "model"], name="grant_once")]

    def __str__(self) -> str:
        return f"{self.team} may use {self.model}"


class Provider(models.TextChoices):
    """Which form of API a backend speaks."""

    OPENAI = "openai", "OpenAI-compatible"
    AZURE = "azure", "Azure OpenAI"
    ANTHROPIC = "anthropic", "Anthropic"


def _seconds(default: int, meaning: str) -> "models.PositiveIntegerField[int, int]":
    return models.PositiveIntegerField(default=default, validators=[MinValueValidator(1)], help_text=meaning)


_validate_entra_name = RegexValidator(r"\A[0-9A-Za-z.-]+\Z", "Use letters, digits, dots and hyphens.")


class Backend(Called):
    """One deployment at one provider. Its credential is stored encrypted, or named by reference, never shown."""

    name = models.CharField(max_length=63, unique=True, validators=[validate_model_name])
    provider = models.CharField(max_length=32, choices=Provider, default=Provider.OPENAI)
    base_url = models.CharField(
        max_length=500,
        help_text="Up to and including /v1, for example https://host/v1. Azure: the resource's, https://name.openai.azure.com.",
    )
    upstream_model = models.CharField(
        max_length=128, help_text="The provider's name of the model or deployment."
    )
    api_version = models.CharField(
        max_length=32,
        blank=True,
        default="",
        db_default="",
        validators=[RegexValidator(r"\A[0-9A-Za-z.-]+\Z", "Use letters, digits, dots and hyphens.")],
        help_text="Azure: the api-version of deployments; the v1 API if empty. "
        "Anthropic: the anthropic-version to send, 2023-06-01 if empty.",
    )
    passes_responses = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Its API has /responses itself: such calls are passed to it as they are, else translated to a chat.",
    )
    entra_tenant = models.CharField(
        max_length=64,
        blank=True,
        default="",
        db_default="",
        validators=[_validate_entra_name],
        help_text="Azure: where the credential is a client's secret of Microsoft Entra ID, the tenant to sign in at.",
    )
    entra_client_id = models.CharField(
        max_length=64,
        blank=True,
        default="",
        db_default="",
        validators=[_validate_entra_name],
        help_text="Azure: the application (client) whose secret it is.",
    )
    connect_timeout_s = _seconds(5, "To open a connection.")
    first_byte_timeout_s = _seconds(120, "From sending a streamed request to its first byte.")
    idle_timeout_s = _seconds(60, "Between two pieces of a stream.")
    total_timeout_s = _seconds(600, "For a whole call, plain or streamed.")
    longest_trip_s = models.PositiveIntegerField(
        default=300,
        db_default=300,
        validators=[MaxValueValidator(MOST_TRIP_S)],
        help_text="A backend that fails, or says that it throttles, is left alone for a while, at most so long. "
        "0: it is always called.",
    )
    check_every_s = models.PositiveIntegerField(
        "check every (s)",
        default=0,
        db_default=0,
        validators=[MaxValueValidator(MOST_CHECK_S)],
        help_text="Ask it for its list of models so often, and count the answer like a call's: a backend that few call "
        "is found out, and found well again. 0: it is known by its calls only.",
    )
    keep_alive_s = models.PositiveSmallIntegerField(
        "keep alive (s)",
        default=4,
        db_default=4,
        validators=[MaxValueValidator(MOST_KEEP_ALIVE_S)],
        help_text="How long a connection without a call is kept for the next. Keep it below what the backend itself "
        "keeps, or calls meet its closing: many servers close after 5 s, large providers after minutes. 0: none is.",
    )
    most_idle = models.PositiveIntegerField(
        "most idle connections",
        null=True,
        blank=True,
        help_text="That are kept so, of each worker. Empty: no bound.",
    )
    list_price_provider = models.CharField(
        max_length=64,
        blank=True,
        default="",
        db_default="",
        help_text="A provider of the list prices, such as openai: its price holds while the backend has no own. "
        "Empty: own prices only.",
    )
    list_price_model = models.CharField(
        max_length=128,
        blank=True,
        default="",
        db_default="",
        help_text="Its name in the list prices. Empty: as the upstream model.",
    )
    tags = ArrayField(
        models.CharField(max_length=32),
        default=list,
        db_default=[],
        blank=True,
        validators=[validate_tags],
        help_text="What it complies with, such as eu or hipaa. Callers that require tags only reach backends that have "
        "all of them.",
    )
    region = models.CharField(
        max_length=32,
        blank=True,
        default="",
        db_default="",
        help_text="Where it is, for teams that prefer regions.",
    )
    quality = models.PositiveSmallIntegerField(
        default=0,
        db_default=0,
        validators=[MaxValueValidator(MOST_QUALITY)],
        help_text="How good its answers are, 0 to 100: models may have a floor.",
    )
    most_calls = models.PositiveIntegerField(
        "most calls at once",
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Of all workers together. Empty: no bound. Calls of normal priority fill 90 %, of low priority 70 %.",
    )
    tokens_per_minute = models.PositiveBigIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="The provider's quota, of all workers together. Empty: no bound. Shared as the calls are.",
    )
    adapts = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Give it fewer calls at once when it throttles or slows down, and more again by and by.",
    )
    is_active = models.BooleanField(default=True)
    is_draining = models.BooleanField(
        default=False,
        db_default=False,  # for the previous release, which knows nothing of it
        help_text="A draining backend gets no new calls; those under way end as usual.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=~Q(list_price_provider="") | Q(list_price_model=""),
                name="backend_list_price_has_provider",
                violation_error_message="A model of the list prices needs its provider.",
            ),
            models.CheckConstraint(
                condition=Q(credential_reference="") | Q(credential_encrypted=None),
                name="backend_one_credential",
            ),
            models.CheckConstraint(
                condition=Q(base_url__regex=r"^https?://[^@?#\s]+$"), name="backend_base_url_form"
            ),
            models.CheckConstraint(
                condition=Q(
                    connect_timeout_s__gte=1,
                    first_byte_timeout_s__gte=1,
                    idle_timeout_s__gte=1,
                    total_timeout_s__gte=1,
                ),
                name="backend_timeouts_positive",
            ),
            models.CheckConstraint(
                condition=(Q(most_calls=None) | Q(most_calls__gte=1))
                & (Q(tokens_per_minute=None) | Q(tokens_per_minute__gte=1)),
                name="backend_quota_positive",
            ),
            models.CheckConstraint(
                condition=Q(check_every_s__lte=MOST_CHECK_S), name="backend_check_bounded"
            ),
            models.CheckConstraint(
                condition=Q(keep_alive_s__lte=MOST_KEEP_ALIVE_S), name="backend_keep_alive_bounded"
            ),
            models.CheckConstraint(condition=Q(quality__lte=MOST_QUALITY), name="backend_quality_bounded"),
            models.CheckConstraint(
                condition=Q(entra_tenant="", entra_client_id="")
                | (~Q(entra_tenant="") & ~Q(entra_client_id="") & Q(provider=Provider.AZURE)),
                name="backend_entra_whole",
                violation_error_message="To sign in at Entra ID, a backend of Azure needs a tenant and a client.",
            ),
            models.CheckConstraint(
                condition=Q(api_version__regex=r"^[0-9A-Za-z.-]*$"), name="backend_api_version_form"
            ),
            models.CheckConstraint(
                condition=Q(longest_trip_s__lte=MOST_TRIP_S), name="backend_longest_trip_bounded"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def listed_model(self) -> str:
        """Its model's name in the list prices."""
        return self.list_price_model or self.upstream_model

    def clean(self) -> None:
        """Check what the administrator typed: the address, the form of the reference, the place in the list."""
        super().clean()
        if self.list_price_provider and not is_listed(self.list_price_provider, self.listed_model):
            raise ValidationError(
                {
                    "list_price_provider": "The list has no price of "
                    f"{self.list_price_provider}/{self.listed_model}."
                }
            )


class Route(models.Model):
    """Says that a backend may serve a model. A group of higher priority number is used only when every backend of
    the groups before it is out; within a group calls are shared by the model's strategy."""

    model = models.ForeignKey(CatalogueModel, on_delete=models.CASCADE, related_name="routes")
    backend = models.ForeignKey(Backend, on_delete=models.PROTECT, related_name="routes")
    priority = models.PositiveSmallIntegerField(
        default=1, help_text="Lower comes first. Those of the same priority share the calls."
    )
    weight = models.PositiveSmallIntegerField(
        default=100,
        db_default=100,
        validators=[MinValueValidator(1), MaxValueValidator(MOST_WEIGHT)],
        help_text=f"Its part of the calls among backends of the same priority, 1 to {MOST_WEIGHT}.",
    )

    class Meta:
        ordering = ["model__name", "priority", "backend__name"]
        constraints = [
            models.UniqueConstraint(fields=["model", "backend"], name="route_once"),
            models.CheckConstraint(
                condition=Q(weight__gte=1, weight__lte=MOST_WEIGHT), name="route_weight_bounded"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model} by {self.backend}"
