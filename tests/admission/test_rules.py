"""Which rules apply to a call, and how their counters are named."""

from zoneinfo import ZoneInfo

import msgspec
import pytest

from billing.admission.rules import (
    Budget,
    Dimensions,
    Limit,
    Owner,
    Rate,
    Rule,
    RuleBook,
    Scope,
    Unit,
)
from billing.admission.windows import Period, Window, window_at

DEPARTMENT, TEAM = Owner(Scope.DEPARTMENT, 7), Owner(Scope.TEAM, 5, "alpha")
APPLICATION, KEY = Owner(Scope.APPLICATION, 3), Owner(Scope.KEY, 2)
CALL = Dimensions(7, 5, 3, 2, "ann", "large")
NOON = 1_790_164_800  # 2026-09-23T12:00Z


def budget(owner: Owner = TEAM, **fields: object) -> Budget:
    given = {"id": 1, "unit": Unit.MONEY, "period": Period.MONTH, "amount": 100} | fields
    return Budget(owner=owner, **given)  # type: ignore[arg-type]


def limit(owner: Owner = TEAM, **fields: object) -> Limit:
    given = {"id": 1, "rate": Rate.REQUESTS, "amount": 60} | fields
    return Limit(owner=owner, **given)  # type: ignore[arg-type]


def book(*rules: Rule, zone: str = "UTC") -> RuleBook:
    return RuleBook(7, 1, ZoneInfo(zone), rules)


def test_rules_of_every_level_apply_widest_first() -> None:
    rules = (budget(KEY), budget(APPLICATION), limit(TEAM), budget(DEPARTMENT))
    found = book(*rules).applying(CALL)
    assert [rule.owner.scope for rule in found] == ["d", "t", "a", "k"]


@pytest.mark.parametrize(
    "rule",
    [
        budget(Owner(Scope.TEAM, 6)),
        budget(Owner(Scope.DEPARTMENT, 5)),
        limit(Owner(Scope.KEY, 3)),
        budget(model="small"),
        budget(end_user="bob"),
    ],
)
def test_rules_of_others_do_not_apply(rule: Rule) -> None:
    assert book(rule).applying(CALL) == ()


def test_a_rule_for_one_model_applies_beside_the_one_for_all() -> None:
    rules = (budget(), budget(model="large"))
    assert book(*rules).applying(CALL) == rules


@pytest.mark.parametrize("first_is_template", [True, False])
def test_a_rule_for_one_user_goes_before_the_one_for_every_user(first_is_template: bool) -> None:
    template, own = budget(end_user="*", amount=10), budget(end_user="ann", amount=99)
    rules = (template, own) if first_is_template else (own, template)
    everybody = book(*rules)
    assert everybody.applying(CALL) == (own,)
    (other,) = everybody.applying(msgspec.structs.replace(CALL, end_user="bob"))
    assert other == template


def test_rules_for_end_users_need_an_end_user() -> None:
    assert book(budget(end_user="*")).applying(msgspec.structs.replace(CALL, end_user="")) == ()


def test_a_user_named_like_the_template_falls_under_it() -> None:
    (found,) = book(budget(end_user="*")).applying(msgspec.structs.replace(CALL, end_user="*"))
    assert found.end_user == "*"


def test_a_call_without_application_or_key_has_none_of_their_rules() -> None:
    call = msgspec.structs.replace(CALL, application_id=None, api_key_id=None)
    assert book(budget(APPLICATION), budget(KEY), budget(TEAM)).applying(call) == (budget(TEAM),)


def test_counters_are_named_by_what_they_count() -> None:
    plan = book(
        budget(DEPARTMENT),
        budget(TEAM, unit=Unit.TOKENS, period=Period.DAY, model="large"),
        limit(KEY),
        limit(KEY, rate=Rate.TOKENS),
        limit(KEY, rate=Rate.CONCURRENCY, model="large"),
    ).plan(CALL, NOON)
    assert plan.names == (
        "c:d:7:money:month:1788220800",
        "c:t:5:mlarge:tokens:day:1790121600",
        "b:k:2:rpm",
        "b:k:2:tpm",
        "k:k:2:mlarge",
    )


def test_an_edited_amount_keeps_the_name_and_each_user_has_their_own() -> None:
    def names(rule: Rule, user: str) -> tuple[str, ...]:
        return book(rule).plan(msgspec.structs.replace(CALL, end_user=user), NOON).names

    assert names(budget(id=1, amount=5), "ann") == names(budget(id=2, amount=6, is_hard=False), "bob")
    template = budget(end_user="*")
    assert names(template, "ann") != names(template, "bob")
    assert names(template, "ann") == names(budget(end_user="ann"), "ann")


def test_the_other_end_users_of_a_key_share_a_counter_but_who_has_a_rule_of_their_own() -> None:
    rules = book(budget(end_user="*"), limit(end_user="*"), budget(end_user="ann", unit=Unit.TOKENS))

    def names(user: str, key: int = 2) -> tuple[str, ...]:
        call = msgspec.structs.replace(CALL, end_user=user, api_key_id=key, is_other_user=True)
        return rules.plan(call, NOON).names

    assert names("bob") == names("cid") != names("bob", key=3)
    assert set(names("ann")) - set(names("bob")) == {
        name for name in rules.plan(CALL, NOON).names if ":tokens:" in name
    }
    assert rules.plan(CALL, NOON).user
    assert not rules.plan(msgspec.structs.replace(CALL, is_other_user=True), NOON).user


def test_no_two_different_rules_share_a_name() -> None:
    rules: list[Rule] = []
    for user in ("", "*"):
        for model in ("", "large", "u0", "mlarge"):
            for unit in Unit:
                rules += [budget(end_user=user, model=model, unit=unit, period=period) for period in Period]
            rules += [limit(end_user=user, model=model, rate=rate) for rate in Rate]
    names = [
        rule.name(CALL, window) if isinstance(rule, Budget) else rule.name(CALL)
        for rule in rules
        for window in [_window()]
    ]
    assert len(set(names)) == len(names)


def _window() -> Window:
    return window_at(Period.DAY, ZoneInfo("UTC"), NOON)


def test_a_plan_holds_until_the_first_of_its_windows_ends() -> None:
    rules = book(budget(period=Period.MONTH), budget(DEPARTMENT, period=Period.HOUR), zone="Asia/Kolkata")
    plan = rules.plan(CALL, NOON)
    assert (plan.start, plan.end) == (NOON - 1800, NOON + 1800)
    assert rules.plan(CALL, plan.end - 1) is plan
    assert rules.plan(CALL, plan.end).start == plan.end


def test_entries_carry_amounts_beyond_a_double_as_digits() -> None:
    for amount, packed in ((2**53 - 1, 2**53 - 1), (2**53, str(2**53)), (9 * 10**18, str(9 * 10**18))):
        entries = msgspec.msgpack.decode(book(budget(amount=amount)).plan(CALL, NOON).entries)
        assert entries[0] == "M"
        assert entries[2] == packed
