"""Budgets: an entry is one amount of money or of tokens per window."""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError

from audit.admin_trail import lock_facts, record_addition, record_change
from billing.admission.rules import MOST_AMOUNT
from billing.money import parse_usd, short_usd
from billing.rule_models import Budget, BudgetPeriod, BudgetUnit
from gateway_site.configuration_file.faults import Fault
from gateway_site.configuration_file.forms import Flag, Form, OneOf, misfit
from gateway_site.configuration_file.kinds.base import Kind, Row
from gateway_site.configuration_file.kinds.limits import Count
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
from gateway_site.configuration_file.schema import Entry, Field, Identity
from gateway_site.configuration_file.yaml_tree import Node

_UNITS = {"money_usd": BudgetUnit.MONEY, "tokens": BudgetUnit.TOKENS}


class Money(Form):
    """An exact amount of US dollars above zero."""

    described = "an amount of US dollars"

    def read(self, node: Node) -> Decimal:
        """Never a float on its way."""
        text = self._text(node).text
        try:
            nanousd = parse_usd(text)
        except ValueError:
            nanousd = 0
        if not 1 <= nanousd <= MOST_AMOUNT:
            raise misfit(
                node.mark,
                f"an amount of US dollars such as 500.00, up to {short_usd(MOST_AMOUNT, '')} and with at most nine "
                "decimals, is expected here",
            )
        return Decimal(text)

    def write(self, value: Decimal) -> str:
        """With at least two decimals; in quotes, so that nothing on the way takes it for a float."""
        return short_usd(_nanousd(value), "")


class Budgets(Kind):
    """Amounts of departments, teams, applications and keys."""

    section = "budgets"
    noun = "budget"
    identity = (*IDENTITY, "per")
    fields = (
        *OWNER_FIELDS,
        Field(
            "per", OneOf(BudgetPeriod.values), "The window, of the calendar in the department's time zone."
        ),
        Field("money_usd", Money(), "How much money."),
        Field("tokens", Count(MOST_AMOUNT), "Or how many tokens of prompts and answers."),
        Field("hard", Flag(), "`false`: it only warns. A new one is hard."),
    )

    def identify(self, values: Mapping[str, Any]) -> Identity:
        """By what it counts, and not by how much. Raises ValueError."""
        identity = super().identify(values)
        units = [unit for name, unit in _UNITS.items() if name in values]
        if len(units) != 1:
            raise ValueError("a budget needs money_usd or tokens, and not both")
        return *identity, units[0].value

    def tell(self, identity: Identity, values: Mapping[str, Any]) -> str:
        """By the owner and the window."""
        what = "money" if "money_usd" in values else "tokens"
        return f"{tell_owner(values)}: {what} per {values['per']}"

    def rows(self, entries: Sequence[Entry]) -> dict[Identity, Row]:
        """Those of the entries, in the terms of the entries."""
        stored = {
            (*place_of_rule(row.target), row.target.period, row.target.unit): row for row in self.all_rows()
        }
        places = ((entry.identity, (*place, *entry.identity[-2:])) for entry, place in find_places(entries))
        return {identity: stored[place] for identity, place in places if place in stored}

    def all_rows(self) -> Iterator[Row]:
        """See the base class; by owner."""
        for owner, budget in StoredRules(Budget):
            amount = (
                {"money_usd": Decimal(short_usd(budget.amount, ""))}
                if budget.unit == BudgetUnit.MONEY
                else {"tokens": budget.amount}
            )
            yield Row(budget, owner | {"per": budget.period, **amount, "hard": budget.is_hard})

    def check(self, entry: Entry, row: Row | None) -> Iterator[Fault]:
        """An owner."""
        return check_owner(entry)

    def add(self, entry: Entry, actor: str) -> None:
        """See the base class."""
        budget = Budget(**find_owner(entry.values), period=entry.values["per"], unit=entry.identity[-1])
        self._assign(budget, entry.values)
        try:
            budget.full_clean()
        except ValidationError as error:
            raise faults_by_file_names(error, {"api_key": "key"}) from None
        budget.save()
        record_addition(actor, budget)

    def change(self, entry: Entry, row: Row, names: Sequence[str], actor: str) -> None:
        """The amount, and whether it is hard."""
        before = lock_facts(row.target)
        row.target.refresh_from_db()
        changed = self._assign(row.target, {name: entry.values[name] for name in names})
        row.target.save(update_fields=changed)
        record_change(actor, row.target, before)

    def settle(self, entry: Entry, actor: str) -> None:
        """What it is for must still be there when the whole file is applied."""
        find_owner(entry.values)

    def _assign(self, budget: Budget, values: Mapping[str, Any]) -> list[str]:
        changed = []
        if (money := values.get("money_usd")) is not None:
            budget.amount = _nanousd(money)
            changed.append("amount")
        if (tokens := values.get("tokens")) is not None:
            budget.amount = tokens
            changed.append("amount")
        if (is_hard := values.get("hard")) is not None:
            budget.is_hard = is_hard
            changed.append("is_hard")
        return changed


def _nanousd(usd: Decimal) -> int:
    return int(usd.scaleb(9))
