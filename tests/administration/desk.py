"""Somebody at the administration: in this process with Django's client, so that a failure can be put between a
change and its commit."""

from decimal import Decimal
from typing import Any
from uuid import uuid4

from django.db import models
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from audit.models import AdminEvent
from billing.ids import uuid7
from billing.models import (
    CorrectionReason,
    ListPrice,
    PriceEntry,
    QuarantinedFrame,
    Spool,
    UsageCorrection,
    UsageRecord,
)
from billing.rule_models import Budget, Limit
from guards.external_models import ExternalGuard
from guards.models import GuardPolicy, Recogniser
from routing.models import Backend, CatalogueModel, Grant, Route
from teams.models import ApiKey, Application, Department, Member, Team
from tests.factories import make_budget, make_caller, make_limit, unique
from tests.guards.policies import make_policy
from tests.people import Account, make_team_member

ADDRESS = "https://provider.example/v1"
READ_ONLY = [ListPrice, UsageRecord, UsageCorrection, Spool, QuarantinedFrame, AdminEvent]
OURS = [Department, Team, Application, Member, ApiKey, CatalogueModel, Grant, Backend, Route, PriceEntry]
OURS += [Limit, Budget, GuardPolicy, Recogniser, ExternalGuard]
HOSTILE = "<script>alert('x')</script>"


class Desk:
    """Somebody at the administration."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.name = account.username
        self.client = Client(headers={"host": "localhost"})
        self.client.force_login(account.user)

    def get(self, path: str, query: dict[str, Any] | None = None) -> Any:
        """A page."""
        return self.client.get(path, query)

    def post(self, path: str, form: dict[str, Any] | None = None) -> Any:
        """A form, as it was sent."""
        return self.client.post(path, form or {})

    def add(self, model: type[models.Model], **form: Any) -> Any:
        """The add page's form."""
        return self.post(page(model, "add"), form)

    def change(self, target: models.Model, **form: Any) -> Any:
        """The change page's form."""
        return self.post(page(type(target), "change", target), form)

    def events(self, target: models.Model) -> list[Any]:
        """What this person did to `target`, oldest first."""
        label, pk = target._meta.label_lower, str(target.pk)
        return list(
            AdminEvent.objects.filter(actor=self.name, object_type=label, object_id=pk).order_by("id")
        )


def page(model: type[models.Model], kind: str, target: models.Model | None = None) -> str:
    """The path of one of a model's pages."""
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}_{kind}"
    return reverse(name, args=[target.pk] if target else [])


def body(response: HttpResponse) -> str:
    return response.content.decode()


def make_record(team: Team | None = None, key: ApiKey | None = None, **fields: Any) -> UsageRecord:
    """A ledger row that cost 1.234567891 USD."""
    now = timezone.now()
    zeros = ["cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"]
    zeros += ["cached_input_cost_nanousd", "cache_write_cost_nanousd", "output_cost_nanousd", "duration_ms"]
    values: dict[str, Any] = {
        **dict.fromkeys(zeros, 0),
        "request_id": uuid7(),
        "spool": uuid4(),
        "seq": 1,
        "admitted_at": now,
        "ended_at": now,
        "operation": "chat",
        "streamed": False,
        "status": "completed",
        "http_status": 200,
        "input_tokens": 7,
        "estimated": False,
        "input_cost_nanousd": 1_234_567_891,
        "cost_nanousd": 1_234_567_891,
        "attempts": 1,
        "team_id": team.pk if team else None,
        "team": team.slug if team else "",
        "api_key_id": key.pk if key else None,
        "end_user": HOSTILE,
    }
    return UsageRecord.objects.create(**{**values, **fields})


def make_list_price() -> ListPrice:
    return ListPrice.objects.create(
        provider=unique("provider"),
        model=HOSTILE[:128],
        mode="chat",
        effective_from=timezone.now(),
        input_usd_per_million=Decimal(1),
        output_usd_per_million=Decimal(1),
    )


def make_correction(record: UsageRecord) -> UsageCorrection:
    """The truth about `record`: it was free."""
    kinds = [
        field.name for field in UsageCorrection._meta.fields if field.name.endswith(("tokens", "nanousd"))
    ]
    return UsageCorrection.objects.create(
        request_id=record.pk,
        spool=record.spool,
        seq=record.seq + 1,
        reason=CorrectionReason.ABANDONED_CALL_ENDED,
        status="completed",
        admitted_at=record.admitted_at,
        department_id=record.department_id,
        team_id=record.team_id,
        **{kind: -getattr(record, kind) for kind in kinds},
    )


def make_rows() -> dict[type[models.Model], models.Model]:
    """One row of every model."""
    caller = make_caller(ADDRESS)
    account = make_team_member(caller.team)
    frame = QuarantinedFrame.objects.create(spool=uuid4(), seq=1, body=b'{"bad": "\xff"}', error=HOSTILE)
    key = caller.key
    record = make_record(team=caller.team, key=key)
    found: list[models.Model] = [
        *(caller.team.department, caller.team, caller.application, caller.backend, key),
        Member.objects.get(user=account.user),
        Grant.objects.select_related("model").get(team=caller.team),
        CatalogueModel.objects.get(name=caller.model),
        Route.objects.get(backend=caller.backend),
        make_policy(caller.team, pii="redact"),
        Recogniser.objects.create(
            name=unique("recogniser"), type="BADGE", pattern="B-[0-9]+", words=[HOSTILE]
        ),
        ExternalGuard.objects.create(
            name=unique("external").upper().replace("-", "_"),
            form="http",
            base_url="https://guard.example",
            setting=HOSTILE,
        ),
        make_limit(team=caller.team, end_user=HOSTILE),
        make_budget(api_key=key, end_user=HOSTILE, model_id=caller.model),
        make_list_price(),
        PriceEntry.objects.get(backend=caller.backend),
        record,
        make_correction(record),
        Spool.objects.create(id=uuid4(), host="a-host"),
        frame,
        AdminEvent.objects.filter(object_type="teams.apikey", object_id=str(key.pk)).get(),
        account.user,
    ]
    return {type(row): row for row in found}
