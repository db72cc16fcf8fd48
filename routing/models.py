"""The catalogue of models, who may use them, and the backends and routes that serve them."""

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q

from routing.addresses import ForbiddenAddress, check_base_url
from routing.credentials import CredentialError, check_reference
from teams.key_rules import validate_model_name


class CatalogueModel(models.Model):
    """A name in the approved catalogue: what applications ask for."""

    name = models.CharField(max_length=128, unique=True, validators=[validate_model_name])
    description = models.CharField(max_length=500, blank=True)
    max_output_tokens = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="The longest answer that may be asked for. Empty: as the gateway's bound.",
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
        ]

    def __str__(self) -> str:
        return self.name


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


def _seconds(default: int, meaning: str) -> "models.PositiveIntegerField[int, int]":
    return models.PositiveIntegerField(default=default, validators=[MinValueValidator(1)], help_text=meaning)


class Backend(models.Model):
    """One deployment at one provider. Its credential is stored encrypted, or named by reference, never shown."""

    name = models.CharField(max_length=63, unique=True, validators=[validate_model_name])
    provider = models.CharField(max_length=32, choices=Provider, default=Provider.OPENAI)
    base_url = models.CharField(
        max_length=500, help_text="Up to and including /v1, for example https://host/v1."
    )
    upstream_model = models.CharField(
        max_length=128, help_text="The provider's name of the model or deployment."
    )
    credential_reference = models.CharField(
        max_length=500,
        blank=True,
        help_text="env:GATEWAY_CREDENTIAL_... or file:/run/secrets/..., instead of a stored credential.",
    )
    credential_encrypted = models.BinaryField(null=True, blank=True, editable=False)
    connect_timeout_s = _seconds(5, "To open a connection.")
    first_byte_timeout_s = _seconds(120, "From sending a streamed request to its first byte.")
    idle_timeout_s = _seconds(60, "Between two pieces of a stream.")
    total_timeout_s = _seconds(600, "For a whole call, plain or streamed.")
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
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Check what the administrator typed: the address and the form of the reference."""
        errors: dict[str, str] = {}
        try:
            check_base_url(self.base_url)
        except ForbiddenAddress as error:
            errors["base_url"] = str(error)
        try:
            check_reference(self.credential_reference)
        except CredentialError as error:
            errors["credential_reference"] = str(error)
        if self.credential_reference and self.credential_encrypted:
            errors["credential_reference"] = "Give a reference or a stored credential, not both."
        if errors:
            raise ValidationError(errors)


class Route(models.Model):
    """Says that a backend may serve a model, and in which order it is tried (lower priority first)."""

    model = models.ForeignKey(CatalogueModel, on_delete=models.CASCADE, related_name="routes")
    backend = models.ForeignKey(Backend, on_delete=models.PROTECT, related_name="routes")
    priority = models.PositiveSmallIntegerField(default=1)

    class Meta:
        ordering = ["model__name", "priority", "backend__name"]
        constraints = [models.UniqueConstraint(fields=["model", "backend"], name="route_once")]

    def __str__(self) -> str:
        return f"{self.model} by {self.backend}"
