"""Whatever was applied before and in whatever order, a file leaves the configuration as it says."""

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway_site.configuration_file.faults import ConfigurationFileError
from gateway_site.configuration_file.kinds import KINDS
from teams.keys import generate_key
from tests.configuration_files import apply, undone
from tests.factories import unique

Entry = dict[str, Any]
Document = dict[str, list[Entry]]

PREFIX = unique("cv")
SECRETS = [generate_key() for _ in range(2)]
COMING = "2040-01-01"
FEW = settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(FEW, max_examples=60)


def name(word: str, number: int) -> str:
    return f"{PREFIX}-{word}{number}"


@st.composite
def states(draw: st.DrawFn) -> Document:
    """A whole state of a small world: each object of it is there with all its fields, or absent."""
    flag, small, text = st.booleans(), st.integers(1, 5), st.sampled_from(["A", "B", "yes", "Ä b"])
    absent = {"state": "absent"}
    departments = {0, *draw(st.sets(st.integers(1, 2)))}
    teams = {0, 1, *draw(st.sets(st.just(2)))}  # the first two have keys, which stay
    models = draw(st.sets(st.integers(0, 2)))
    backends = draw(st.sets(st.integers(0, 1)))
    spare = [name("alias", 0), name("alias", 1), *(name("model", n) for n in range(3) if n not in models)]
    owners = {alias: draw(st.sampled_from([None, *sorted(models)])) for alias in spare}

    def either(there: bool, identity: Entry, **fields: Any) -> Entry:
        return {**identity, **(fields if there else absent)}

    rules: list[tuple[Entry, bool]] = [
        ({"team": name("team", 0), "end_user": "*", "model": name("model", 0)}, 0 in models),
        ({"department": name("dept", 1)}, 1 in departments),
    ]

    return {
        "departments": [
            either(n in departments, {"slug": name("dept", n)}, name=draw(text), cost_centre=draw(text))
            for n in range(3)
        ],
        "teams": [
            either(
                n in teams,
                {"slug": name("team", n)},
                name=draw(text),
                department=name("dept", draw(st.sampled_from(sorted(departments)))),
                is_active=draw(flag),
            )
            for n in range(3)
        ],
        "applications": [
            either(n in teams and draw(flag), {"team": name("team", n), "slug": "app"}, name=draw(text))
            for n in (1, 2)
        ],
        "people": [
            {"username": name("person", 0), "is_active": draw(flag), "email": draw(st.just("a@b.example"))}
        ],
        "members": [
            either(
                n in teams and draw(flag), {"user": name("person", 0), "role": role, "team": name("team", n)}
            )
            for n in range(3)
            for role in ("viewer", "team_owner")
        ],
        "backends": [
            either(
                n in backends,
                {"name": name("backend", n)},
                base_url="https://a.example/v1",
                upstream_model=draw(text),
                credential=draw(st.sampled_from([None, "one-secret", "another-secret"])),
                credential_reference="",
                idle_timeout_s=draw(small),
            )
            for n in range(2)
        ],
        "models": [
            either(
                n in models,
                {"name": name("model", n)},
                description=draw(text),
                aliases=[alias for alias, owner in owners.items() if owner == n],
                granted_teams=[name("team", team) for team in sorted(teams) if draw(flag)],
            )
            for n in range(3)
        ],
        "routes": [
            either(
                m in models and b in backends and draw(flag),
                {"model": name("model", m), "backend": name("backend", b)},
                priority=draw(small),
            )
            for m, b in itertools.product(range(3), range(2))
        ],
        "prices": [
            either(
                n in backends and draw(flag),
                {"backend": name("backend", n), "effective_from": COMING},
                input_usd_per_million=draw(st.sampled_from(["0", "0.15"])),
                cached_input_usd_per_million=draw(st.sampled_from([None, "0.1"])),
                output_usd_per_million="1",
            )
            for n in range(2)
        ],
        "keys": [
            {
                "team": name("team", n),
                "name": draw(text),
                "secret": SECRETS[n],
                "expires_at": draw(st.sampled_from(["never", COMING])),
                "scopes": draw(st.sampled_from([[], ["chat"], ["models", "chat"]])),
                "allowed_models": [name("model", m) for m in sorted(models)],
                "is_paused": draw(flag),
            }
            for n in range(2)
        ],
        "limits": [
            either(
                there and draw(flag),
                owner,
                requests_per_minute=draw(st.sampled_from([None, 1, 2])),
                tokens_per_minute=draw(small),
            )
            for owner, there in rules
        ],
        "budgets": [
            {**either(there and draw(flag), owner, hard=draw(flag)), "per": "day", unit: draw(small)}
            for (owner, there), unit in zip(rules, ("tokens", "money_usd"), strict=True)
        ],
    }


def world() -> dict[str, list[Any]]:
    """Everything of the small world, as an export would have it."""
    return {
        kind.section: [row.values for row in kind.all_rows() if PREFIX in str(row.values)] for kind in KINDS
    }


def try_to_apply(document: Document) -> bool:
    try:
        apply(document)
    except ConfigurationFileError:
        return False
    return True


def a_whole_file_wins_over_any_history(history: list[tuple[Document, Any]], wanted: Document) -> None:
    with undone():
        assert apply(wanted)
        expected = world()
    with undone():
        for document, random in history:  # whole states, and parts of them, which may be refused
            assert try_to_apply(document)
            part = {
                section: [e for e in entries if random.random() < 0.5]
                for section, entries in document.items()
            }
            try_to_apply(part)
        apply(wanted)
        assert world() == expected
        assert apply(wanted).startswith("Added 0, changed 0, removed 0, ")


def single_changes_converge_in_any_order(before: Document, wanted: Document, data: st.DataObject) -> None:
    """Each entry is a file of its own. What is refused for something that is still missing, or still there, is
    tried again after the others: the end does not depend on the order."""
    with undone():
        apply(wanted)
        expected = world()
    entries = [(section, entry) for section, entries in wanted.items() for entry in entries]
    with undone():
        apply(before)
        left = data.draw(st.permutations(entries))
        for _ in range(10):
            # A file says the same however often it is applied, and what it says may have been undone: all again.
            left = [item for item in left if not try_to_apply({item[0]: [item[1]]})]
            if not left:
                break
        assert left == []
        for section, entry in entries:
            assert apply({section: [entry]}).startswith("Added 0, changed 0, removed 0, ")
        assert world() == expected


HISTORY = st.lists(st.tuples(states(), st.randoms(use_true_random=False)), max_size=3)
WHOLE_FILES = given(history=HISTORY, wanted=states())
SINGLE_CHANGES = given(before=states(), wanted=states(), data=st.data())

test_a_whole_file_wins_over_any_history = FEW(WHOLE_FILES(a_whole_file_wins_over_any_history))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@WHOLE_FILES
@MANY
def test_a_whole_file_wins_over_very_many_histories(
    history: list[tuple[Document, Any]], wanted: Document
) -> None:
    a_whole_file_wins_over_any_history(history, wanted)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@SINGLE_CHANGES
@MANY
def test_very_many_single_changes_converge(before: Document, wanted: Document, data: st.DataObject) -> None:
    single_changes_converge_in_any_order(before, wanted, data)
