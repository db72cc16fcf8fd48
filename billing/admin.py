"""Administration pages of prices, the ledger and the spools."""

from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from audit.admin_trail import AuditedAdmin, ReadOnlyAdmin
from billing import rule_admin  # noqa: F401 - its pages register themselves
from billing.ids import smallest_id_at
from billing.models import ListPrice, PriceEntry, QuarantinedFrame, Spool, UsageCorrection, UsageRecord
from billing.money import format_nanousd
from teams.models import ApiKey, Team


def format_usd(usd: Decimal | None) -> str:
    """A price without trailing zeros: $0.15; a dash when there is none."""
    return "-" if usd is None else f"${usd.normalize():f}"


@admin.register(PriceEntry)
class PriceEntryAdmin(AuditedAdmin):
    """The price book. An entry in force is not edited: the ledger points to it; add a later one instead."""

    list_display = ["backend", "effective_from", "input", "cached_input", "cache_write", "output"]
    list_select_related = ["backend"]
    search_fields = ["backend__name"]
    autocomplete_fields = ["backend"]

    def has_change_permission(self, request: HttpRequest, obj: PriceEntry | None = None) -> bool:
        """Only until it takes effect."""
        return super().has_change_permission(request, obj) and not _is_in_force(obj)

    def has_delete_permission(self, request: HttpRequest, obj: PriceEntry | None = None) -> bool:
        """Only until it takes effect."""
        return super().has_delete_permission(request, obj) and not _is_in_force(obj)

    @admin.display(description="Input", ordering="input_usd_per_million")
    def input(self, entry: PriceEntry) -> str:
        """USD per million tokens."""
        return format_usd(entry.input_usd_per_million)

    @admin.display(description="Cached input")
    def cached_input(self, entry: PriceEntry) -> str:
        """USD per million tokens."""
        return format_usd(entry.cached_input_usd_per_million)

    @admin.display(description="Cache write")
    def cache_write(self, entry: PriceEntry) -> str:
        """USD per million tokens."""
        return format_usd(entry.cache_write_usd_per_million)

    @admin.display(description="Output", ordering="output_usd_per_million")
    def output(self, entry: PriceEntry) -> str:
        """USD per million tokens."""
        return format_usd(entry.output_usd_per_million)


@admin.register(ListPrice)
class ListPriceAdmin(ReadOnlyAdmin):
    """What providers ask publicly: loaded by `load_prices`, to read here."""

    list_display = ["model", "provider", "mode", "input", "output", "effective_from", "deprecation_date"]
    list_filter = ["provider", "mode"]
    search_fields = ["model"]
    search_help_text = "Part of a model's name."

    @admin.display(description="Input", ordering="input_usd_per_million")
    def input(self, entry: ListPrice) -> str:
        """USD per million tokens."""
        return format_usd(entry.input_usd_per_million)

    @admin.display(description="Output", ordering="output_usd_per_million")
    def output(self, entry: ListPrice) -> str:
        """USD per million tokens."""
        return format_usd(entry.output_usd_per_million)


def _is_in_force(entry: PriceEntry | None) -> bool:
    return entry is not None and entry.effective_from <= timezone.now()


class AdmittedFilter(admin.SimpleListFilter):
    """When a request was admitted: a range of the primary key, so it prunes partitions.

    Other filters have no index. Beside them the past day is shown unless another period is chosen.
    """

    title = "period"
    parameter_name = "period"
    periods = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}

    def __init__(self, request: HttpRequest, *arguments: Any) -> None:
        self._default = "day" if {"status__exact", "estimated__exact"} & set(request.GET) else "all"
        super().__init__(request, *arguments)

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The choices."""
        return [("hour", "Past hour"), ("day", "Past 24 hours"), ("week", "Past 7 days"), ("all", "Any time")]

    def choices(self, changelist: Any) -> Any:
        """The choices, without Django's own `All`."""
        for value, title in self.lookup_choices:
            query = changelist.get_query_string({self.parameter_name: value})
            yield {"selected": value == self._chosen(), "query_string": query, "display": title}

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
        """The requests of the chosen period."""
        period = self.periods.get(self._chosen())
        return queryset.filter(pk__gte=smallest_id_at(timezone.now() - period)) if period else queryset

    def _chosen(self) -> str:
        return self.value() or self._default


@admin.register(UsageRecord)
class UsageRecordAdmin(ReadOnlyAdmin):
    """The ledger, newest first; searched by what is indexed."""

    list_display = ["admitted", "outcome", "caller", "model", "tokens_in", "tokens_out", "cost"]
    list_filter = [AdmittedFilter, "status", "estimated"]
    ordering = ["-request_id"]
    search_fields = ["request_id"]
    search_help_text = "A whole request id, a team, or an API key's hint such as sk-gw_...AbC1."
    readonly_fields = [
        *("cost", "input_cost", "cached_input_cost", "cache_write_cost", "output_cost"),
        *("corrected_tokens", "corrected_cost"),
    ]
    fieldsets = [
        (None, {"fields": ["request_id", "admitted_at", "ended_at", "status", "http_status", "reason"]}),
        (
            "Request",
            {"fields": ["operation", "streamed", "model", "model_alias", "client_request_id", "end_user"]},
        ),
        ("Caller", {"fields": ["department", "team", "application", "api_key_hint"]}),
        ("Guards", {"fields": ["guard_findings"]}),
        ("Backend", {"fields": ["backend", "attempts", "duration_ms", "first_byte_ms", "overhead_us"]}),
        (
            "Tokens",
            {
                "fields": [
                    "input_tokens",
                    "cached_input_tokens",
                    "cache_write_tokens",
                    "output_tokens",
                    "reasoning_tokens",
                    "estimated",
                ]
            },
        ),
        ("Cost", {"fields": [*readonly_fields[:5], "price_entry_id", "list_price_id"]}),
        ("With its correction", {"fields": ["corrected_tokens", "corrected_cost"]}),
        ("Spool", {"fields": ["spool", "seq"]}),
    ]

    def get_search_results(
        self, request: HttpRequest, queryset: "QuerySet[Any]", search_term: str
    ) -> "tuple[QuerySet[Any], bool]":
        """Look up one id, or the rows of a team or key by its id, whose index has the list's order."""
        term = search_term.strip()
        if not term:
            return queryset, False
        try:
            return queryset.filter(pk=UUID(term)), False
        except ValueError:
            pass
        if (team := Team.objects.filter(slug=term).first()) is not None:
            return queryset.filter(team_id=team.pk), False
        keys = list(ApiKey.objects.filter(hint=term).values_list("pk", flat=True))
        return queryset.filter(api_key_id__in=keys), False

    @admin.display(description="Admitted (UTC)")
    def admitted(self, record: UsageRecord) -> str:
        """To the second; the record's page has the rest."""
        return f"{record.admitted_at:%Y-%m-%d %H:%M:%S}"

    @admin.display(description="Outcome")
    def outcome(self, record: UsageRecord) -> str:
        """The status with what the caller got."""
        return f"{record.status.replace('_', ' ')} {record.http_status}"

    @admin.display(description="Caller")
    def caller(self, record: UsageRecord) -> str:
        """The team and, if the key had one, the application."""
        return "/".join(name for name in (record.team, record.application) if name) or "-"

    @admin.display(description="In")
    def tokens_in(self, record: UsageRecord) -> int:
        """All prompt tokens."""
        return record.input_tokens

    @admin.display(description="Out")
    def tokens_out(self, record: UsageRecord) -> int:
        """All answer tokens."""
        return record.output_tokens

    @admin.display(description="Cost")
    def cost(self, record: UsageRecord) -> str:
        """The sum of the kinds."""
        return format_nanousd(record.cost_nanousd)

    @admin.display(description="Input")
    def input_cost(self, record: UsageRecord) -> str:
        """Of the prompt tokens neither cached nor written to cache."""
        return format_nanousd(record.input_cost_nanousd)

    @admin.display(description="Cached input")
    def cached_input_cost(self, record: UsageRecord) -> str:
        """Of the prompt tokens read from the provider's cache."""
        return format_nanousd(record.cached_input_cost_nanousd)

    @admin.display(description="Cache write")
    def cache_write_cost(self, record: UsageRecord) -> str:
        """Of the prompt tokens written to the provider's cache."""
        return format_nanousd(record.cache_write_cost_nanousd)

    @admin.display(description="Output")
    def output_cost(self, record: UsageRecord) -> str:
        """Of all answer tokens."""
        return format_nanousd(record.output_cost_nanousd)

    @admin.display(description="Tokens")
    def corrected_tokens(self, record: UsageRecord) -> str:
        """Prompt and answer, as totals count them; a dash without a correction."""
        found = UsageCorrection.objects.filter(pk=record.pk).first()
        if found is None:
            return "-"
        return (
            f"{record.input_tokens + found.input_tokens} in, {record.output_tokens + found.output_tokens} out"
        )

    @admin.display(description="Cost")
    def corrected_cost(self, record: UsageRecord) -> str:
        """As totals count it; a dash without a correction."""
        found = UsageCorrection.objects.filter(pk=record.pk).first()
        return format_nanousd(record.cost_nanousd + found.cost_nanousd) if found else "-"


@admin.register(UsageCorrection)
class UsageCorrectionAdmin(ReadOnlyAdmin):
    """What became known later about rows of the ledger."""

    list_display = ["request_id", "at", "reason", "status", "cost"]
    list_filter = ["reason", "status"]
    ordering = ["-request_id"]
    search_fields = ["request_id"]
    search_help_text = "A whole request id."
    readonly_fields = ["cost"]
    fieldsets = [
        (None, {"fields": ["request_id", "at", "reason", "status", "admitted_at"]}),
        (
            "Caller",
            {"fields": ["department_id", "team_id", "application_id", "api_key_id", "end_user", "model"]},
        ),
        (
            "Added",
            {
                "fields": [
                    *("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens"),
                    *("reasoning_tokens", "cost"),
                ]
            },
        ),
        ("Spool", {"fields": ["spool", "seq"]}),
    ]

    def get_search_results(
        self, request: HttpRequest, queryset: "QuerySet[Any]", search_term: str
    ) -> "tuple[QuerySet[Any], bool]":
        """Look up one id."""
        term = search_term.strip()
        try:
            return (queryset.filter(pk=UUID(term)) if term else queryset), False
        except ValueError:
            return queryset.none(), False

    @admin.display(description="Cost")
    def cost(self, correction: UsageCorrection) -> str:
        """What is added to the row's cost."""
        return format_nanousd(correction.cost_nanousd)


@admin.register(Spool)
class SpoolAdmin(ReadOnlyAdmin):
    """How far each worker's spool has been shipped."""

    list_display = ["id", "host", "shipped_seq", "updated_at"]
    search_fields = ["host"]


@admin.register(QuarantinedFrame)
class QuarantinedFrameAdmin(ReadOnlyAdmin):
    """Records the ledger could not take."""

    list_display = ["at", "spool", "seq", "error"]
    fields = ["at", "spool", "seq", "error", "body_shown"]
    readonly_fields = ["body_shown"]

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Any]":
        """Lists do without the bodies."""
        return super().get_queryset(request).defer("body")

    @admin.display(description="Body")
    def body_shown(self, frame: QuarantinedFrame) -> SafeString:
        """The frame as text."""
        return format_html("<pre>{}</pre>", bytes(frame.body).decode("utf-8", errors="replace"))
