"""Prices, the ledger, and how far each spool has been shipped into it."""

from decimal import Decimal

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils import timezone


def _price(meaning: str, *, optional: bool = False) -> "models.DecimalField[Decimal, Decimal]":
    return models.DecimalField(
        max_digits=18,
        decimal_places=9,
        null=optional,
        blank=optional,
        validators=[MinValueValidator(Decimal(0))],
        help_text=f"USD per million tokens. {meaning}".strip(),
    )


class PriceEntry(models.Model):
    """What a backend's tokens cost from a moment on; the latest entry not in the future holds."""

    backend = models.ForeignKey("routing.Backend", on_delete=models.PROTECT, related_name="prices")
    effective_from = models.DateTimeField(default=timezone.now)
    input_usd_per_million = _price("")
    cached_input_usd_per_million = _price("Empty: as input.", optional=True)
    cache_write_usd_per_million = _price("Empty: as input.", optional=True)
    output_usd_per_million = _price("Reasoning tokens are output tokens.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["backend__name", "-effective_from"]
        verbose_name_plural = "price entries"
        constraints = [
            models.UniqueConstraint(fields=["backend", "effective_from"], name="priceentry_one_at_a_time"),
            models.CheckConstraint(
                condition=Q(input_usd_per_million__gte=0, output_usd_per_million__gte=0)
                & (Q(cached_input_usd_per_million=None) | Q(cached_input_usd_per_million__gte=0))
                & (Q(cache_write_usd_per_million=None) | Q(cache_write_usd_per_million__gte=0)),
                name="priceentry_not_negative",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.backend} from {self.effective_from:%Y-%m-%d}"


class Mode(models.TextChoices):
    """What a listed model is called for."""

    CHAT = "chat", "Chat"
    COMPLETION = "completion", "Completion"
    EMBEDDING = "embedding", "Embedding"
    RESPONSES = "responses", "Responses"


class ListPrice(models.Model):
    """What a provider asks publicly for a model's tokens from a moment on; the latest not in the future holds.

    A backend is priced by the list only if it says so. What has no known price is not in the list.
    """

    provider = models.CharField(max_length=64, help_text="For example openai, azure, anthropic.")
    model = models.CharField(max_length=128, help_text="The provider's name of the model.")
    effective_from = models.DateTimeField()
    mode = models.CharField(max_length=16, choices=Mode)
    input_usd_per_million = _price("")
    cached_input_usd_per_million = _price("Empty: as input.", optional=True)
    cache_write_usd_per_million = _price("Empty: as input.", optional=True)
    output_usd_per_million = _price("")
    max_input_tokens = models.PositiveIntegerField(null=True, blank=True)
    max_output_tokens = models.PositiveIntegerField(null=True, blank=True)
    vision = models.BooleanField(default=False, help_text="Takes images.")
    tools = models.BooleanField(default=False, help_text="Calls tools.")
    deprecation_date = models.DateField(null=True, blank=True, help_text="When the provider withdraws it.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["provider", "model", "-effective_from"]
        constraints = [
            models.UniqueConstraint(
                fields=["provider", "model", "effective_from"], name="listprice_one_at_a_time"
            ),
            models.CheckConstraint(
                condition=Q(input_usd_per_million__gte=0, output_usd_per_million__gte=0)
                & (Q(cached_input_usd_per_million=None) | Q(cached_input_usd_per_million__gte=0))
                & (Q(cache_write_usd_per_million=None) | Q(cache_write_usd_per_million__gte=0)),
                name="listprice_not_negative",
            ),
            models.CheckConstraint(
                condition=(Q(max_input_tokens=None) | Q(max_input_tokens__gte=1))
                & (Q(max_output_tokens=None) | Q(max_output_tokens__gte=1)),
                name="listprice_tokens_positive",
            ),
            models.CheckConstraint(condition=Q(mode__in=Mode.values), name="listprice_mode_known"),
            models.CheckConstraint(condition=~Q(provider="") & ~Q(model=""), name="listprice_names_given"),
        ]

    def __str__(self) -> str:
        return f"{self.provider}/{self.model} from {self.effective_from:%Y-%m-%d}"


class Status(models.TextChoices):
    """How a request ended."""

    COMPLETED = "completed", "Completed"
    REFUSED = "refused", "Refused by the gateway"
    FAILED = "failed", "Failed at the backend"
    CLIENT_LEFT = "client_left", "The client left"
    ABANDONED = "abandoned", "The gateway's process died during the call"


def _cost_is_sum() -> Q:
    """The cost is that of its kinds, to the nano-dollar."""
    return Q(
        cost_nanousd=F("input_cost_nanousd")
        + F("cached_input_cost_nanousd")
        + F("cache_write_cost_nanousd")
        + F("output_cost_nanousd")
    )


class UsageRecord(models.Model):
    """The ledger: one row per request, appended by the shipper, never changed. Only refusals that come in
    floods share rows, which say how many they stand for.

    Names are copied beside the ids and there are no foreign keys, so that no later edit or deletion can
    change or block what happened. Money is integer nano-dollars (1e-9 USD), rounded half up once per token
    kind; `cost_nanousd` is the sum of the kinds. The table is partitioned by month of `request_id` (UUIDv7).
    """

    request_id = models.UUIDField(primary_key=True)
    spool = models.UUIDField()
    seq = models.BigIntegerField()
    admitted_at = models.DateTimeField()
    ended_at = models.DateTimeField()
    operation = models.CharField(max_length=64)
    streamed = models.BooleanField()
    status = models.CharField(max_length=16, choices=Status)
    http_status = models.PositiveSmallIntegerField()
    reason = models.CharField(
        max_length=64, blank=True, help_text="The x-gateway-reason of a refusal or failure."
    )
    requests = models.PositiveIntegerField(
        default=1, db_default=1, help_text="How many like refusals this row stands for; 1 for all else."
    )

    department_id = models.BigIntegerField(null=True)
    department = models.CharField(max_length=63, blank=True)
    team_id = models.BigIntegerField(null=True)
    team = models.CharField(max_length=63, blank=True)
    application_id = models.BigIntegerField(null=True)
    application = models.CharField(max_length=63, blank=True)
    api_key_id = models.BigIntegerField(null=True)
    api_key_hint = models.CharField(max_length=32, blank=True)
    end_user = models.CharField(max_length=200, blank=True)
    is_other_user = models.BooleanField(
        null=True,  # as in records of a release that had none
        help_text="Counted with the key's other end users: more came that day than have counters of their own.",
    )
    client_request_id = models.CharField(
        max_length=200, blank=True, help_text="The caller's X-Client-Request-Id."
    )

    model = models.CharField(max_length=128, blank=True)
    served_model = models.CharField(
        max_length=128,
        blank=True,
        null=True,
        help_text="The model that served in its place, where another did.",
    )
    model_alias = models.CharField(
        max_length=128,
        null=True,  # as in records of a release that had none
        help_text="The name asked for, where it is an alias of the model.",
    )
    backend_id = models.BigIntegerField(null=True)
    backend = models.CharField(max_length=63, blank=True)
    price_entry_id = models.BigIntegerField(null=True, help_text="The backend's own price that was charged.")
    list_price_id = models.BigIntegerField(null=True, help_text="The list price that was charged instead.")

    input_tokens = models.BigIntegerField(help_text="All prompt tokens, cached ones included.")
    cached_input_tokens = models.BigIntegerField()
    cache_write_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField(help_text="All answer tokens, reasoning included.")
    reasoning_tokens = models.BigIntegerField()
    estimated = models.BooleanField(help_text="Counted here, because the backend reported no usable figures.")
    input_cost_nanousd = models.BigIntegerField(
        help_text="Of the prompt tokens neither cached nor written to cache."
    )
    cached_input_cost_nanousd = models.BigIntegerField()
    cache_write_cost_nanousd = models.BigIntegerField()
    output_cost_nanousd = models.BigIntegerField()
    cost_nanousd = models.BigIntegerField()

    attempts = models.PositiveSmallIntegerField(
        help_text="Calls to backends; tokens and cost are of all of them."
    )
    failed_attempts = models.JSONField(
        null=True, help_text="The calls after which another was made, with what each may have used and cost."
    )
    guard_findings = models.JSONField(
        null=True,
        help_text="What guards found in the request: kinds, places and what was done. Never a value.",
    )
    duration_ms = models.PositiveIntegerField()
    first_byte_ms = models.PositiveIntegerField(null=True)
    overhead_us = models.PositiveIntegerField(
        null=True, help_text="Time in the gateway before the backend was called."
    )

    class Meta:
        ordering = ["-request_id"]
        constraints = [
            models.CheckConstraint(
                condition=_cost_is_sum(),
                name="usagerecord_cost_is_sum",
            ),
            models.CheckConstraint(
                condition=Q(
                    input_tokens__gte=F("cached_input_tokens") + F("cache_write_tokens"),
                    output_tokens__gte=F("reasoning_tokens"),
                    cached_input_tokens__gte=0,
                    cache_write_tokens__gte=0,
                    reasoning_tokens__gte=0,
                ),
                name="usagerecord_tokens_consistent",
            ),
            models.CheckConstraint(
                condition=Q(
                    input_cost_nanousd__gte=0,
                    cached_input_cost_nanousd__gte=0,
                    cache_write_cost_nanousd__gte=0,
                    output_cost_nanousd__gte=0,
                ),
                name="usagerecord_cost_not_negative",
            ),
            models.CheckConstraint(condition=Q(status__in=Status.values), name="usagerecord_status_known"),
            models.CheckConstraint(
                condition=Q(requests=1) | Q(requests__gt=1, status=Status.REFUSED),
                name="usagerecord_only_refusals_in_bulk",
            ),
        ]
        indexes = [
            models.Index(fields=["team_id", "-request_id"], name="usagerecord_team"),
            models.Index(fields=["api_key_id", "-request_id"], name="usagerecord_key"),
        ]

    def __str__(self) -> str:
        return str(self.request_id)


class CorrectionReason(models.TextChoices):
    """Why a row of the ledger is corrected."""

    ABANDONED_CALL_ENDED = "abandoned_call_ended", "The worker told later how the call ended"


class UsageCorrection(models.Model):
    """A later truth about a row of the ledger: what is to be added to it, often less than nothing.

    A row is never changed, so totals sum rows and corrections. Who is charged, and when, is copied from the row:
    both count in the same place. `spool` and `seq` are those of the frame that told the truth, `status` is how the
    call truly ended.
    """

    request_id = models.UUIDField(primary_key=True)
    spool = models.UUIDField()
    seq = models.BigIntegerField()
    at = models.DateTimeField(db_default=Now())
    reason = models.CharField(max_length=64, choices=CorrectionReason)
    status = models.CharField(max_length=16, choices=Status)

    admitted_at = models.DateTimeField()
    department_id = models.BigIntegerField(null=True)
    team_id = models.BigIntegerField(null=True)
    application_id = models.BigIntegerField(null=True)
    api_key_id = models.BigIntegerField(null=True)
    end_user = models.CharField(max_length=200, blank=True)
    is_other_user = models.BooleanField(
        null=True,  # as in records of a release that had none
        help_text="Counted with the key's other end users: more came that day than have counters of their own.",
    )
    model = models.CharField(max_length=128, blank=True)

    input_tokens = models.BigIntegerField()
    cached_input_tokens = models.BigIntegerField()
    cache_write_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    reasoning_tokens = models.BigIntegerField()
    input_cost_nanousd = models.BigIntegerField()
    cached_input_cost_nanousd = models.BigIntegerField()
    cache_write_cost_nanousd = models.BigIntegerField()
    output_cost_nanousd = models.BigIntegerField()
    cost_nanousd = models.BigIntegerField()

    class Meta:
        ordering = ["-request_id"]
        constraints = [
            models.CheckConstraint(
                condition=_cost_is_sum(),
                name="usagecorrection_cost_is_sum",
            ),
            models.CheckConstraint(
                condition=Q(reason__in=CorrectionReason.values), name="usagecorrection_reason_known"
            ),
            models.CheckConstraint(
                condition=Q(status__in=[status for status in Status.values if status != Status.ABANDONED]),
                name="usagecorrection_status_final",
            ),
        ]
        indexes = [models.Index(fields=["team_id", "-request_id"], name="usagecorrection_team")]

    def __str__(self) -> str:
        return f"correction of {self.request_id}"


class Spool(models.Model):
    """A worker's spool and its watermark: every frame up to `shipped_seq` is in the ledger."""

    id = models.UUIDField(primary_key=True)
    host = models.CharField(max_length=200)
    shipped_seq = models.BigIntegerField(default=0)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["-updated_at"]
        constraints = [
            models.CheckConstraint(condition=Q(shipped_seq__gte=0), name="spool_shipped_not_negative")
        ]

    def __str__(self) -> str:
        return str(self.id)


class QuarantinedFrame(models.Model):
    """A spool frame the ledger could not take, kept whole so that nothing is lost and nothing is blocked."""

    spool = models.UUIDField()
    seq = models.BigIntegerField()
    body = models.BinaryField()
    error = models.CharField(max_length=500)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["spool", "seq"], name="quarantinedframe_once")]

    def __str__(self) -> str:
        return f"{self.spool}:{self.seq}"


from billing import rule_models  # noqa: E402, F401 - Django looks for all models here
