"""Topics by example: texts about them are told from others, wherever they stand in a long text."""

import pytest

from guards.finding import Guard
from guards.models import Recogniser
from guards.policy import USUAL_THRESHOLD
from guards.scanner import Scanner, Wanted
from guards.topics import Topic, TopicIndex, max_nearness
from tests.factories import unique
from tests.guards.test_answers import ask, make_answering
from tests.processes import Product, Simulator

INVESTING = Topic(
    "investing",
    "INVESTING",
    (
        "Which shares should I buy this year?",
        "Is Tesla stock a good investment right now?",
        "How should I split my savings between bonds and equities?",
        "Recommend an ETF for long-term growth.",
        "Will the price of Bitcoin go up next month?",
        "Should I sell my Apple shares before earnings?",
        "What is the best fund for my pension?",
        "Give me a portfolio for retirement.",
        "When will interest rates fall, and what should I buy then?",
        "Tell me how to trade options for income.",
    ),
)
ABOUT = [
    "Would you put money into Nvidia at this price?",
    "Are government bonds better than stocks at the moment?",
    "Explain which index funds beat inflation for somebody aged thirty.",
]
OTHERS = [
    "Explain recursion to a ten-year-old.",
    "Write a regular expression for ISO dates.",
    "Give me a recipe for lentil soup with cumin and lemon.",
    "Plan a week in Morocco for three friends.",
    "How do I share my screen in a video call?",
]


@pytest.fixture(scope="module")
def scanner() -> Scanner:
    return Scanner(Wanted(frozenset({"INVESTING"}), topics=(INVESTING,)))


@pytest.mark.parametrize("text", ABOUT)
def test_a_text_about_it_is_found_also_within_another(scanner: Scanner, text: str) -> None:
    for said in (text, f"{OTHERS[2]} " * 12 + text, text + f" {OTHERS[1]}" * 12):
        (finding,) = scanner.look(said)
        assert (finding.guard, finding.type, finding.rule) == ("topics", "INVESTING", "investing")
        assert finding.score >= USUAL_THRESHOLD[Guard.TOPICS]
    assert max_nearness(INVESTING, text) >= USUAL_THRESHOLD[Guard.TOPICS]


@pytest.mark.parametrize("text", OTHERS)
def test_another_text_is_not(text: str) -> None:
    assert max_nearness(INVESTING, text) < USUAL_THRESHOLD[Guard.TOPICS]


@pytest.mark.parametrize("text", ["", "Hi", " " * 5000, "?" * 3000, "\ud800 lone", "株を買うべきですか" * 20])
def test_any_text_can_be_looked_at(text: str) -> None:
    assert all(0 <= score <= 1 for _, score in TopicIndex([INVESTING]).score(text))


def test_a_topic_is_refused(product: Product, simulator: Simulator) -> None:
    kind = unique("TOPIC").upper().replace("-", "_")
    Recogniser.objects.create(
        name=unique("topic"), type=kind, guard="topics", examples=list(INVESTING.examples)
    )
    rules = {"topics": {"act": "block", "types": [kind]}}
    caller = make_answering(simulator, product, "Fine.", request=rules)
    answer = ask(product, caller, "chat", ABOUT[0])
    assert (answer.status_code, answer.headers["x-gateway-reason"]) == (400, "guard_topics")
    assert kind in answer.text
    assert ask(product, caller, "chat", OTHERS[0]).status_code == 200
