"""What may be done with a key, what the database refuses, and what is recorded."""

import threading
from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.test import override_settings
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from audit.models import AdminEvent
from teams import services
from teams.key_rules import normalise_ip_ranges, normalise_model_names, normalise_scopes, parse_network
from teams.keys import generate_key
from teams.models import ApiKey, Application, KeyState
from teams.services import (
    LONGEST_OVERLAP,
    change_key,
    create_key,
    pause_key,
    resume_key,
    revoke_key,
    rotate_key,
)
from tests.factories import make_team

DAY = timedelta(days=1)


def make_key(**fields: Any) -> ApiKey:
    return create_key(make_team(), "A key", actor="tests", **fields).key


def expire(key: ApiKey) -> None:
    created = timezone.now() - 2 * DAY
    ApiKey.objects.filter(pk=key.pk).update(created_at=created, expires_at=created + DAY)


def events_of(key: ApiKey) -> list[AdminEvent]:
    return list(AdminEvent.objects.filter(object_type="teams.apikey", object_id=str(key.pk)).order_by("id"))


def told_of(key: ApiKey, number: int = -1) -> dict[str, Any]:
    """What an event says of a key as it is now."""
    after: dict[str, Any] | None = events_of(key)[number].after
    assert after is not None
    return after


def stored(key: ApiKey) -> ApiKey:
    return ApiKey.objects.get(pk=key.pk)


# --- Rules ----------------------------------------------------------------------------------------------


def test_rules_are_stored_in_one_form() -> None:
    key = make_key(
        scopes=["models", "chat", "chat"],
        allowed_models=["zeta", " alpha ", "zeta"],
        ip_ranges=["2001:DB8:0::/32", "192.0.2.7", "10.0.0.0/8", "10.0.0.0/255.0.0.0"],
    )
    row = stored(key)
    assert row.scopes == ["chat", "models"]
    assert row.allowed_models == ["alpha", "zeta"]
    assert row.ip_ranges == ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"]


WRONG_RULES: list[tuple[str, Any, str]] = [
    ("scopes", ["chat", "admin"], "'admin' is not one of chat, completions"),
    ("scopes", [""], "is not one of"),
    ("allowed_models", [""], "cannot be a model's name"),
    ("allowed_models", ["two words"], "cannot be a model's name"),
    ("allowed_models", ["a\nb"], "cannot be a model's name"),
    ("allowed_models", ["a" * 129], "cannot be a model's name"),
    ("allowed_models", [f"model-{n}" for n in range(101)], "At most 100"),
    ("ip_ranges", ["10.0.0.1/8"], "has bits of hosts set; the whole range is 10.0.0.0/8"),
    ("ip_ranges", ["2001:db8::1/32"], "has bits of hosts set"),
    ("ip_ranges", ["10.0.0.0/33"], "is not an address range"),
    ("ip_ranges", ["example.com"], "is not an address range"),
    ("ip_ranges", [""], "is not an address range"),
    ("ip_ranges", ["fe80::1%eth0"], "is not an address range"),
    ("ip_ranges", [f"10.0.{n}.0/24" for n in range(101)], "At most 100"),
]


@pytest.mark.parametrize(("field", "values", "words"), WRONG_RULES)
def test_a_wrong_rule_is_named_and_nothing_is_stored(field: str, values: Any, words: str) -> None:
    team, before = make_team(), AdminEvent.objects.count()
    rules: dict[str, Any] = {field: values}
    with pytest.raises(ValidationError) as refused:
        create_key(team, "A key", actor="tests", **rules)
    assert words in str(refused.value.message_dict[field])
    assert not ApiKey.objects.filter(team=team).exists()
    assert AdminEvent.objects.count() == before


def test_all_wrong_rules_are_named_at_once() -> None:
    with pytest.raises(ValidationError) as refused:
        make_key(scopes=["a", "b"], allowed_models=["a b"], ip_ranges=["x", "y"])
    found = refused.value.message_dict
    assert {field: len(found[field]) for field in ("scopes", "allowed_models", "ip_ranges")} == {
        "scopes": 2,
        "allowed_models": 1,
        "ip_ranges": 2,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"scopes": ["admin"]},
        {"scopes": [None]},
        {"allowed_models": ["two words"]},
        {"allowed_models": ["fine", ""]},
        {"allowed_models": [None]},
        {"allowed_models": [f"m{n}" for n in range(101)]},
        {"ip_ranges": ["10.0.0.1/8"]},
        {"ip_ranges": ["nowhere"]},
        {"ip_ranges": [None]},
        {"revoked_reason": "no revocation"},
    ],
    ids=str,
)
def test_the_database_refuses_wrong_rules_too(changes: dict[str, Any]) -> None:
    key = make_key()
    with pytest.raises(DatabaseError), transaction.atomic():
        ApiKey.objects.filter(pk=key.pk).update(**changes)


def test_the_database_has_defaults_for_who_knows_nothing_of_rules() -> None:
    key = make_key()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO teams_apikey (team_id, name, digest, pepper_version, hint, created_by, created_at)"
            " SELECT team_id, name, decode('00', 'hex') || digest, 1, hint, created_by, created_at"
            " FROM teams_apikey WHERE id = %s RETURNING id",
            [key.pk],
        )
        row = ApiKey.objects.get(pk=cursor.fetchone()[0])
    assert (row.scopes, row.allowed_models, row.ip_ranges, row.revoked_reason) == ([], [], [], "")
    row.delete()


networks = st.one_of(
    st.ip_addresses().map(str),
    st.tuples(st.ip_addresses(), st.integers(0, 128)).map(
        lambda pair: str(ip_network((pair[0], min(pair[1], pair[0].max_prefixlen)), strict=False))
    ),
)


@given(texts=st.lists(networks, max_size=20))
def test_normalised_ranges_are_stable_and_the_database_agrees(texts: list[str]) -> None:
    ranges = normalise_ip_ranges(texts)
    assert normalise_ip_ranges(reversed(ranges)) == ranges
    with connection.cursor() as cursor:
        cursor.execute("SELECT (%s::text[])::cidr[]::text[]", [ranges])
        assert len(cursor.fetchone()[0]) == len(ranges)


@given(text=st.text(max_size=50))
def test_no_text_breaks_the_reading_of_a_range(text: str) -> None:
    try:
        network = parse_network(text)
    except ValueError as error:
        assert "address range" in str(error) or "bits of hosts" in str(error)  # noqa: PT017 - either may come
    else:
        assert parse_network(str(network)) == network


def test_ipv4_written_as_ipv6_is_ipv4() -> None:
    assert normalise_ip_ranges(["::ffff:10.0.0.0/104", "::ffff:192.0.2.1"]) == ["10.0.0.0/8", "192.0.2.1/32"]
    assert normalise_ip_ranges(["::/0"]) == ["::/0"]


@given(values=st.lists(st.text(max_size=5)))
def test_only_endpoints_are_scopes(values: list[str]) -> None:
    with pytest.raises(ValidationError):
        normalise_scopes([*values, "x"])


def test_an_empty_rule_restricts_nothing() -> None:
    assert normalise_scopes([]) == normalise_model_names([]) == normalise_ip_ranges([]) == []


# --- Given secrets --------------------------------------------------------------------------------------


def test_a_given_secret_that_is_in_use_is_refused() -> None:
    secret = generate_key()
    make_key(secret=secret)
    with pytest.raises(ValidationError) as refused:
        make_key(secret=secret)
    assert "in use already" in str(refused.value.message_dict["secret"])
    assert secret not in str(refused.value)


def test_a_given_secret_in_use_under_an_older_pepper_is_refused() -> None:
    secret = generate_key()
    make_key(secret=secret)
    peppers = f"{settings.GATEWAY_KEY_PEPPERS},2:{'ab' * 32}"
    with (
        override_settings(GATEWAY_KEY_PEPPERS=peppers),
        pytest.raises(ValidationError, match="in use already"),
    ):
        make_key(secret=secret)


def test_of_two_who_give_the_same_secret_one_is_told() -> None:
    secret = generate_key()
    results = race(2, lambda: make_key(secret=secret))
    assert sorted(type(result).__name__ for result in results) == ["ApiKey", "ValidationError"]


def test_a_key_cannot_end_and_never_end() -> None:
    with pytest.raises(ValidationError, match="not both"):
        make_key(expires_at=timezone.now() + DAY, never_expires=True)


# --- Pause, resume, revoke ------------------------------------------------------------------------------


def test_a_key_is_paused_and_resumed_and_each_is_recorded_once() -> None:
    key = make_key()
    assert pause_key(key, actor="somebody")
    assert not pause_key(key, actor="somebody")
    assert stored(key).state_at(timezone.now()) is KeyState.PAUSED
    assert resume_key(key, actor="somebody")
    assert not resume_key(key, actor="somebody")
    assert stored(key).state_at(timezone.now()) is KeyState.ACTIVE
    assert [event.action for event in events_of(key)] == ["key.create", "key.pause", "key.resume"]


def test_a_reason_for_the_revocation_is_kept() -> None:
    key = make_key()
    assert revoke_key(key, actor="somebody", reason=" leaked on a wiki ")
    assert stored(key).revoked_reason == "leaked on a wiki"
    assert told_of(key)["reason"] == "leaked on a wiki"
    assert not revoke_key(key, actor="somebody", reason="again")
    assert stored(key).revoked_reason == "leaked on a wiki"


def test_a_reason_that_is_too_long_is_refused_and_the_key_stays() -> None:
    key = make_key()
    with pytest.raises(ValidationError):
        revoke_key(key, actor="somebody", reason="x" * 501)
    assert stored(key).revoked_at is None


ENDINGS: dict[str, Callable[[ApiKey], Any]] = {
    "expired": expire,
    "revoked": lambda key: revoke_key(key, actor="tests"),
}
ATTEMPTS: dict[str, Callable[[ApiKey], Any]] = {
    "pause": lambda key: pause_key(key, actor="tests"),
    "resume": lambda key: resume_key(key, actor="tests"),
    "rotate": lambda key: rotate_key(key, actor="tests", overlap=DAY),
    "extend": lambda key: change_key(key, actor="tests", expires_at=timezone.now() + DAY),
    "rescope": lambda key: change_key(key, actor="tests", scopes=["chat"]),
}


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("attempt", ATTEMPTS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_what_has_ended_does_not_come_back(ending: str, attempt: str, paused: bool) -> None:
    key = make_key()
    if paused:
        pause_key(key, actor="tests")
    ENDINGS[ending](key)
    key.refresh_from_db()
    before, events = vars(stored(key)), len(events_of(key))
    with pytest.raises(ValidationError, match=ending):
        ATTEMPTS[attempt](key)
    after = vars(stored(key))
    assert {name: after[name] for name in after if name != "_state"} == {
        name: before[name] for name in before if name != "_state"
    }
    assert len(events_of(key)) == events
    assert not ApiKey.objects.filter(replaces=key).exists()


def test_what_has_ended_can_still_be_renamed() -> None:
    key = make_key()
    revoke_key(key, actor="tests")
    assert change_key(key, actor="tests", name="Old key of the batch job")


@pytest.mark.parametrize("value", [None, timezone.now() + DAY])
def test_no_statement_revives_a_revoked_key(value: Any) -> None:
    key = make_key()
    revoke_key(key, actor="tests")
    with pytest.raises(IntegrityError, match="stays revoked"), transaction.atomic():
        ApiKey.objects.filter(pk=key.pk).update(revoked_at=value, revoked_reason="")


# --- Change ---------------------------------------------------------------------------------------------


def test_a_change_tells_what_differs_and_nothing_else() -> None:
    key = make_key(scopes=["chat"])
    application = Application.objects.create(team=key.team, slug="app", name="App")
    assert change_key(
        key, actor="somebody", name="A key", application=application, scopes=[], ip_ranges=["10.0.0.0/8"]
    )
    event = events_of(key)[-1]
    assert (event.actor, event.action) == ("somebody", "key.change")
    assert event.before == {"application": None, "scopes": ["chat"], "ip_ranges": []}
    assert event.after == {"application": "app", "scopes": [], "ip_ranges": ["10.0.0.0/8"]}
    assert (key.application, key.ip_ranges) == (application, ["10.0.0.0/8"])


def test_a_change_of_nothing_is_not_recorded() -> None:
    key = make_key(scopes=["chat"])
    assert not change_key(key, actor="tests", name="A key", scopes=["chat"], expires_at=key.expires_at)
    assert len(events_of(key)) == 1


def test_a_change_keeps_what_was_changed_meanwhile() -> None:
    key = make_key()
    stale = stored(key)
    pause_key(key, actor="tests")
    change_key(key, actor="tests", scopes=["chat"])
    change_key(stale, actor="tests", name="Renamed")
    row = stored(key)
    assert (row.name, row.scopes, row.paused_at) == ("Renamed", ["chat"], key.paused_at)
    assert stale.scopes == ["chat"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"expires_at": timezone.now() - DAY}, "expires_at"),
        ({"scopes": ["x"]}, "scopes"),
        ({"ip_ranges": ["10.0.0.1/8"]}, "ip_ranges"),
    ],
)
def test_a_wrong_change_is_refused_whole(fields: dict[str, Any], field: str) -> None:
    key = make_key()
    with pytest.raises(ValidationError) as refused:
        change_key(key, actor="tests", **{"allowed_models": ["fine"], **fields})
    assert field in refused.value.message_dict
    assert stored(key).allowed_models == []


def test_a_key_cannot_be_given_to_another_teams_application_or_to_another_team() -> None:
    key, other = make_key(), make_team()
    theirs = Application.objects.create(team=other, slug="app", name="App")
    with pytest.raises(ValidationError, match="another team"):
        change_key(key, actor="tests", application=theirs)
    with pytest.raises(TypeError, match="team"):
        change_key(key, actor="tests", team=other)


# --- Rotate ---------------------------------------------------------------------------------------------


def test_a_rotated_key_has_the_same_rights_and_the_old_one_ends_after_the_overlap() -> None:
    team = make_team()
    application = Application.objects.create(team=team, slug="app", name="App")
    old = create_key(
        team,
        "A key",
        actor="tests",
        application=application,
        expires_at=timezone.now() + 30 * DAY,
        scopes=["chat"],
        allowed_models=["alpha"],
        ip_ranges=["10.0.0.0/8"],
    ).key
    created = rotate_key(old, actor="somebody", overlap=DAY)
    new = stored(created.key)
    for name in ("team", "application", "name", "scopes", "allowed_models", "ip_ranges"):
        assert getattr(new, name) == getattr(old, name)
    assert (new.replaces, new.created_by) == (old, "somebody")
    assert new.expires_at is not None
    assert abs(new.expires_at - timezone.now() - 30 * DAY) < timedelta(seconds=5)
    ends = stored(old).expires_at
    assert ends is not None
    assert abs(ends - timezone.now() - DAY) < timedelta(seconds=5)
    assert old.expires_at == ends
    assert events_of(old)[-1].action == "key.rotate"
    assert told_of(old)["replacement"] == str(new)
    assert told_of(new, 0)["replaces"] == str(old)
    assert created.secret not in str([vars(event) for event in (*events_of(old), *events_of(new))])


def test_without_an_overlap_the_old_key_ends_at_once() -> None:
    key = make_key(never_expires=True)
    created = rotate_key(key, actor="tests", overlap=timedelta(0))
    assert key.state_at(timezone.now()) is KeyState.EXPIRED
    assert created.key.expires_at is None


def test_an_overlap_does_not_make_the_old_key_live_longer() -> None:
    key = make_key(expires_at=timezone.now() + timedelta(hours=1))
    ends = key.expires_at
    rotate_key(key, actor="tests", overlap=DAY)
    assert stored(key).expires_at == ends


@pytest.mark.parametrize("overlap", [-timedelta(seconds=1), LONGEST_OVERLAP + timedelta(seconds=1)])
def test_an_overlap_has_bounds(overlap: timedelta) -> None:
    key = make_key()
    with pytest.raises(ValidationError) as refused:
        rotate_key(key, actor="tests", overlap=overlap)
    assert "0 hours to 7 days" in str(refused.value.message_dict["overlap"])


def test_rotating_does_not_get_round_a_pause() -> None:
    key = make_key()
    pause_key(key, actor="tests")
    assert rotate_key(key, actor="tests", overlap=DAY).key.state_at(timezone.now()) is KeyState.PAUSED


def test_a_key_is_rotated_once_and_its_replacement_is_next() -> None:
    key = make_key()
    new = rotate_key(key, actor="tests", overlap=DAY).key
    with pytest.raises(ValidationError, match="rotated already"):
        rotate_key(key, actor="tests", overlap=DAY)
    assert rotate_key(new, actor="tests", overlap=DAY).key.replaces == new


# --- Races, and all or nothing --------------------------------------------------------------------------


def race(number: int, act: Callable[[], Any]) -> list[Any]:
    """What `number` threads get that do the same at the same time: a result or an exception each."""
    barrier, results = threading.Barrier(number), []

    def run() -> None:
        barrier.wait()
        try:
            results.append(act())
        except Exception as error:  # noqa: BLE001 - the test looks at it
            results.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("act", [pause_key, revoke_key], ids=["pause", "revoke"])
def test_of_many_who_do_the_same_one_did_it(act: Callable[..., bool]) -> None:
    key = make_key()
    assert sorted(race(4, lambda: act(stored(key), actor="tests"))) == [False, False, False, True]
    assert len(events_of(key)) == 2


def test_of_many_who_rotate_one_gets_the_key() -> None:
    key = make_key()
    results = race(4, lambda: rotate_key(stored(key), actor="tests", overlap=DAY))
    assert sorted(type(result).__name__ for result in results) == [
        "CreatedKey",
        "ValidationError",
        "ValidationError",
        "ValidationError",
    ]
    assert ApiKey.objects.filter(replaces=key).count() == 1


@pytest.mark.parametrize("attempt", ["pause", "rotate", "rescope"])
def test_without_its_event_a_change_does_not_happen(monkeypatch: pytest.MonkeyPatch, attempt: str) -> None:
    key = make_key()
    ends = key.expires_at

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the trail cannot be written")

    monkeypatch.setattr(services, "record_event", fail)
    with pytest.raises(RuntimeError):
        ATTEMPTS[attempt](key)
    row = stored(key)
    assert (row.paused_at, row.scopes, row.expires_at) == (None, [], ends)
    assert not ApiKey.objects.filter(replaces=key).exists()
