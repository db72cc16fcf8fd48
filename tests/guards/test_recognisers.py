"""Recognisers of an administrator's own: what they may be, and that none goes while a rule needs it."""

from typing import Any

import pytest
from django.core.exceptions import ValidationError

from guards.models import GuardRule, Recogniser
from tests.factories import unique, wait_for_record
from tests.guards.policies import make_policy
from tests.guards.test_answers import ask, make_answering
from tests.processes import Product, Simulator


def make_recogniser(**fields: Any) -> Recogniser:
    kind = unique("OWN").upper().replace("-", "_")
    given = {"name": unique("own"), "type": kind, "guard": "content", "keywords": ["blue heron"]} | fields
    recogniser = Recogniser(**given)
    recogniser.full_clean()
    recogniser.save()
    return recogniser


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"keywords": []}, "expression or keywords"),
        ({"pattern": "x+"}, "expression or keywords"),
        ({"guard": "topics"}, "expression or keywords"),
        ({"guard": "topics", "keywords": [], "examples": ["a", " "]}, "empty"),
        ({"keywords": ["a", ""]}, "keywords"),
        ({"keywords": [], "pattern": "a*"}, "pattern"),
        ({"type": "API_KEY"}, "found otherwise"),
        ({"type": "EMAIL_ADDRESS"}, "found otherwise"),
        ({"type": "PROMPT_INJECTION"}, "found otherwise"),
        ({"type": "lower"}, "Use A-Z"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        make_recogniser(**fields)


def test_personal_data_of_a_known_kind_may_be_found_in_further_ways() -> None:
    make_recogniser(guard="pii", type="PHONE_NUMBER", keywords=[], pattern="ext[.] [0-9]{4}").delete()


@pytest.mark.parametrize("change", [{"is_active": False}, {"type": "ANOTHER"}, {"guard": "pii"}])
def test_one_that_a_rule_lists_stays(change: dict[str, Any]) -> None:
    recogniser = make_recogniser()
    policy = make_policy(content={"types": [recogniser.type]})
    for name, value in change.items():
        setattr(recogniser, name, value)
    with pytest.raises(ValidationError, match=f"listed by rules of {policy.name}"):
        recogniser.full_clean()
    GuardRule.objects.filter(policy=policy).delete()
    recogniser.full_clean()


def test_one_of_two_that_find_the_same_may_go() -> None:
    recogniser = make_recogniser()
    make_recogniser(type=recogniser.type)
    make_policy(content={"types": [recogniser.type]})
    recogniser.is_active = False
    recogniser.full_clean()


@pytest.mark.parametrize("fails_open", [False, True])
def test_where_one_was_removed_all_the_same_nobody_can_look(
    product: Product, simulator: Simulator, fails_open: bool
) -> None:
    recogniser = make_recogniser()
    rules = {"content": {"act": "block", "types": [recogniser.type], "fails_open": fails_open}}
    caller = make_answering(simulator, product, "Fine.", request=rules)
    assert ask(product, caller, "chat", "The blue heron").status_code == 400
    recogniser.delete()
    product.wait_for_configuration()
    answer = ask(product, caller, "chat", "The blue heron")
    assert answer.status_code == (200 if fails_open else 503)
    record = wait_for_record(answer.headers["x-request-id"])
    if fails_open:
        assert [each["act"] for each in record.guard_findings or ()] == ["unavailable"]
    else:
        assert record.reason == "guard_unavailable"


def test_a_rule_without_kinds_takes_what_comes(product: Product, simulator: Simulator) -> None:
    caller = make_answering(simulator, product, "Fine.", request={"content": "block"})
    recogniser = make_recogniser(keywords=[unique("word")])
    product.wait_for_configuration()
    try:
        assert ask(product, caller, "chat", f"The {recogniser.keywords[0]}").status_code == 400
    finally:
        recogniser.delete()
