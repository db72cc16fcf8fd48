"""Limits: an entry holds the rates of one owner, for one end user and model; each is a row of its own."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from django.core.exceptions import ValidationError

from audit.admin_trail import lock_facts, record_addition, record_change
from billing.admission.rules import MOST_RATE
from billing.rule_models import Limit, LimitKind
from gateway_site.configuration_file.faults import Fault
from gateway_site.configuration_file.forms import Form, misfit
from gateway_site.configuration_file.kinds.base import Kind, Row
from gateway_site.configuration_file.kinds.rule_owners import (
    IDENTITY,
    OWNER_FIELDS,
    StoredRules,
    check_owner,
    faults_by_file_names,
    find_owner,
    find_places,
    place_of_rule,
    tell_owner,
)
from gateway_site.configuration_file.removal import remove_with_trail
from gateway_site.configuration_file.schema import Entry, Field, Identity
from gateway_site.configuration_file.yaml_tree import Node

_KINDS = {
    "requests_per_minute": LimitKind.REQUESTS,
    "tokens_per_minute": LimitKind.TOKENS,
    "requests_at_a_time": LimitKind.CONCURRENCY,
}


class Count(Form):
    """A whole number from 1 on."""

    described = "a whole number from 1"

    def __init__(self, most: int) -> None:
        self._most = most

    def read(self, node: Node) -> int:
        """Digits only."""
        text = self._text(node).text
        if not re.match(r"\A[0-9]{1,19}\Z", text) or not 1 <= int(text) <= self._most:
            raise misfit(node.mark, f"a whole number from 1 to {self._most} is expected here")
        return int(text)


class Limits(Kind):
    """Rates of departments, teams, applications and keys."""

    section = "limits"
    noun = "limit"
    identity = IDENTITY
    fields = (
        *OWNER_FIELDS,
        Field(
            "requests_per_minute",
            Count(MOST_RATE),
            "How many requests. Null: no such limit.",
            is_nullable=True,
        ),
        Field(
            "tokens_per_minute",
            Count(MOST_RATE),
            "How many tokens of prompts and answers. Null: no such limit.",
            is_nullable=True,
        ),
        Field(
            "requests_at_a_time",
            Count(MOST_RATE),
            "How many open requests. Null: no such limit.",
            is_nullable=True,
        ),
    )

    def tell(self, identity: Identity, values: Mapping[str, Any]) -> str:
        """By the owner."""
        return tell_owner(values)

    def rows(self, entries: Sequence[Entry]) -> dict[Identity, Row]:
        """Those of the entries, in the terms of the entries."""
        stored = {place_of_rule(next(iter(row.target.values()))): row for row in self.all_rows()}
        return {entry.identity: stored[place] for entry, place in find_places(entries) if place in stored}

    def all_rows(self) -> Iterator[Row]:
        """See the base class; by owner."""
        for _, rules in groupby(StoredRules(Limit), key=lambda item: place_of_rule(item[1])):
            pairs = list(rules)
            by_name = {name: rule for name, kind in _KINDS.items() for _, rule in pairs if rule.kind == kind}
            amounts = {name: by_name[name].amount if name in by_name else None for name in _KINDS}
            yield Row(by_name, pairs[0][0] | amounts)

    def check(self, entry: Entry, row: Row | None) -> Iterator[Fault]:
        """An owner, and something that is limited."""
        yield from check_owner(entry)
        if not entry.is_absent and not _KINDS.keys() & entry.values.keys():
            yield entry.fault(f"a limit needs one of {', '.join(_KINDS)}")

    def is_left_out(self, entry: Entry) -> bool:
        """Where there is no limit and is to be none."""
        return all(entry.values.get(name) is None for name in _KINDS)

    def add(self, entry: Entry, actor: str) -> None:
        """A row for each rate."""
        for name in _KINDS:
            if entry.values.get(name) is not None:
                self._add_one(entry, name, actor)

    def change(self, entry: Entry, row: Row, names: Sequence[str], actor: str) -> None:
        """Row by row."""
        for name in names:
            amount, limit = entry.values[name], row.target.get(name)
            if limit is None:
                self._add_one(entry, name, actor)
            elif amount is None:
                remove_with_trail(limit, actor)
            else:
                before = lock_facts(limit)
                limit.amount = amount
                limit.save(update_fields=["amount"])
                record_change(actor, limit, before)

    def remove(self, row: Row, actor: str) -> None:
        """All rates."""
        for limit in row.target.values():
            remove_with_trail(limit, actor)

    def settle(self, entry: Entry, actor: str) -> None:
        """What it limits must still be there when the whole file is applied."""
        find_owner(entry.values)

    def _add_one(self, entry: Entry, name: str, actor: str) -> None:
        limit = Limit(**find_owner(entry.values), kind=_KINDS[name], amount=entry.values[name])
        try:
            limit.full_clean()
        except ValidationError as error:
            raise faults_by_file_names(error, {"api_key": "key", "amount": name}) from None
        limit.save()
        record_addition(actor, limit)
