"""What administrators say about guards that are services elsewhere."""

from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q

from guards.external.base import External
from outbound.credential_fields import Called

KIND = RegexValidator(r"\A[A-Z][A-Z0-9_]{0,63}\Z", "Use A-Z, 0-9 and underscores, as EMPLOYEE_ID.")


class ExternalForm(models.TextChoices):
    """The services that can be asked (guards.external.forms)."""

    LAKERA = "lakera", "Lakera Guard"
    AZURE_SHIELD = "azure_shield", "Azure AI Content Safety: Prompt Shields"
    AZURE_CATEGORIES = "azure_categories", "Azure AI Content Safety: categories of harm"
    GUARDRAILS = "guardrails", "Guardrails AI server"
    MODERATION = "moderation", "OpenAI moderation"
    HTTP = "http", "HTTP classifier"


class ExternalGuard(Called):
    """A service elsewhere that is asked about texts, by the policies that name it and by no others."""

    name = models.CharField(
        max_length=64,
        unique=True,
        validators=[KIND],
        help_text="The kind of its findings, as rules list it: LAKERA.",
    )
    form = models.CharField("service", max_length=24, choices=ExternalForm)
    base_url = models.CharField(
        "base URL",
        max_length=500,
        help_text="https://api.lakera.ai; https://name.cognitiveservices.azure.com; of moderation up to and including "
        "/v1; of an HTTP classifier the whole address.",
    )
    setting = models.CharField(
        max_length=128,
        blank=True,
        default="",
        help_text="Lakera: the id of a project. Guardrails: the name of the guard. Moderation: the model.",
    )
    timeout_ms = models.PositiveIntegerField(
        "time limit (ms)", default=2000, validators=[MinValueValidator(50), MaxValueValidator(30_000)]
    )
    is_active = models.BooleanField(
        default=True,
        help_text="One that is not cannot look: calls that need it are refused or pass, by their policy.",
    )

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(form__in=ExternalForm.values), name="externalguard_form_known"
            ),
            models.CheckConstraint(
                condition=Q(name__regex=r"^[A-Z][A-Z0-9_]*$"), name="externalguard_name_form"
            ),
            models.CheckConstraint(
                condition=Q(credential_reference="") | Q(credential_encrypted=None),
                name="externalguard_one_credential",
            ),
            models.CheckConstraint(
                condition=Q(base_url__regex=r"^https?://[^@?#\s]+$"), name="externalguard_base_url_form"
            ),
            models.CheckConstraint(
                condition=Q(timeout_ms__gte=50, timeout_ms__lte=30_000), name="externalguard_timeout_bounded"
            ),
            models.CheckConstraint(
                condition=~Q(form=ExternalForm.GUARDRAILS, setting=""),
                name="externalguard_guardrails_named",
                violation_error_message="A Guardrails AI server needs the name of a guard as its setting.",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def to_external(self) -> External:
        """As workers use it. Raises CredentialError, ForbiddenAddress."""
        return External(
            name=self.name,
            form=self.form,
            base_url=self.base_url.rstrip("/"),
            setting=self.setting,
            timeout_s=self.timeout_ms / 1000,
            credential=self.resolve(),
        )
