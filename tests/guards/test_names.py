"""Names of people and places: found in the process, redacted and put back, and told from what looks like one."""

import pytest

from guards.finding import Finding, without_overlaps
from guards.pii.names import find_names
from guards.scanner import TOO_MUCH, Scanner, Wanted
from tests.factories import wait_for_record
from tests.guards.test_routes import WAYS, answer_text, ask, make_guarded, received
from tests.processes import Product, Simulator

NAMES = frozenset({"PERSON", "LOCATION"})


def found(text: str) -> list[tuple[str, str]]:
    return [
        (each.type, text[each.start : each.end]) for each in without_overlaps(list(find_names(text, NAMES)))
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "My name is Oluwaseun Adeyemi and I call from Toronto.",
            {("PERSON", "Oluwaseun Adeyemi"), ("LOCATION", "Toronto")},
        ),
        ("The letter is by Jonathan Pryce's lawyer.", {("PERSON", "Jonathan Pryce")}),
        ('{"customer_name": "Siobhan de la Cruz"}', {("PERSON", "Siobhan de la Cruz")}),
        ("Tell Rebecca Thornton that I agree.", {("PERSON", "Rebecca Thornton")}),
        ("Explain how TCP and UDP differ.", set()),
        ("nothing in here has a capital", set()),
        ("", set()),
    ],
)
def test_finds(text: str, expected: set[tuple[str, str]]) -> None:
    assert set(found(text)) == expected


def test_only_what_is_asked_for() -> None:
    text = "My name is Rebecca Thornton and I live in Toronto."
    assert {each.type for each in find_names(text, {"LOCATION"})} == {"LOCATION"}


def test_places_of_names_in_long_texts_are_right() -> None:
    text = "The weather is fine today and nothing else is to be said. " * 200 + "My name is Rebecca Thornton."
    (finding,) = [each for each in find_names(text, {"PERSON"}) if each.rule == "cue"]
    assert text[finding.start : finding.end] == "Rebecca Thornton"


def test_only_the_process_looks_for_names() -> None:
    wanted = Wanted(NAMES)
    here, apart = Scanner(wanted), Scanner(wanted, finds_names=True)
    text = "My name is Rebecca Thornton."
    assert here.weight(text) == TOO_MUCH
    assert here.weight("nothing in here has a capital") < 100
    assert here.look(text) == ()
    assert [type(each) for each in apart.look(text)[:1]] == [Finding]


@WAYS
def test_names_are_redacted_and_come_back(product: Product, simulator: Simulator, stream: bool) -> None:
    caller = make_guarded(simulator, product, pii={"act": "redact", "types": ["PERSON", "LOCATION"]})
    said = "My name is Rebecca Thornton and I moved to Toronto, says Rebecca Thornton."
    answer = ask(product, caller, "chat", said, stream=stream)
    assert said in answer_text(answer)
    record = wait_for_record(answer.headers["x-request-id"])
    upstream = received(simulator, str(record.request_id))
    assert "My name is <PERSON_1> and I moved to <LOCATION_1>, says <PERSON_1>." in upstream
    assert {each["type"] for each in record.guard_findings or ()} == {"PERSON", "LOCATION"}
