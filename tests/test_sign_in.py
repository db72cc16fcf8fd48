"""How many passwords may be tried: for a name and from an address, at once or in turn, known or unknown."""

import re
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.http import HttpResponse
from django.test import Client, override_settings
from django.utils import timezone
from redis import ConnectionError as RedisConnectionError
from redis import Redis

from audit.models import AdminEvent
from gateway_site import env
from gateway_site.sign_in_limit import ACTION, ACTOR
from gateway_site.tasks import clear_sessions
from tests.factories import unique
from tests.people import PASSWORD, Account, make_account

store: Any = Redis.from_url(settings.REDIS_URL)
LIMIT, PERIOD_S = 4, 100_000
WRONG = "wrong"
NEW_PASSWORD = "staple battery horse correct"


@pytest.fixture(autouse=True)
def _few_attempts() -> Iterator[None]:
    """Four for a name, many from an address, in a window that does not end during a test."""
    forget_counts()
    limits = {
        "GATEWAY_SIGN_IN_PER_NAME": (LIMIT, PERIOD_S),
        "GATEWAY_SIGN_IN_PER_ADDRESS": (10 * LIMIT, PERIOD_S),
    }
    with override_settings(**limits):
        yield
    forget_counts()


def forget_counts() -> None:
    if counts := store.keys("portal:*"):
        store.delete(*counts)


def browser(address: str = "192.0.2.1") -> Client:
    return Client(headers={"host": "localhost"}, REMOTE_ADDR=address)


def try_password(client: Client, username: str, password: str = WRONG) -> Any:
    return client.post("/sign-in/", {"username": username, "password": password})


def without_names(response: HttpResponse, username: str) -> str:
    """A page without the name entered, the form's token, and how long each name's window still is."""
    text = re.sub(r'name="csrfmiddlewaretoken" value="[^"]+"', "", response.content.decode())
    return re.sub(r"in \d+ minutes?", "", text.replace(username, "NAME"))


def events() -> list[Any]:
    return list(AdminEvent.objects.filter(actor=ACTOR, action=ACTION).order_by("-id"))


def test_after_so_many_attempts_not_even_the_right_password_is_looked_at() -> None:
    account, client = make_account(), browser()
    assert [try_password(client, account.username).status_code for _ in range(LIMIT)] == [200] * LIMIT
    refused = try_password(client, account.username, PASSWORD)
    assert refused.status_code == 429
    assert 0 < int(refused["retry-after"]) <= PERIOD_S
    assert "Too many attempts. Nothing was checked. Try again in" in refused.content.decode()
    assert "no-store" in refused["cache-control"]
    assert "sessionid" not in client.cookies
    assert try_password(browser("192.0.2.2"), account.username, PASSWORD).status_code == 429
    assert try_password(client, make_account().username, PASSWORD).status_code == 302


def test_a_name_without_an_account_is_answered_like_one_with() -> None:
    account, nobody = make_account(), unique("nobody")
    for _ in range(LIMIT + 2):
        known = try_password(browser(), account.username)
        unknown = try_password(browser(), nobody)
        assert known.status_code == unknown.status_code
        assert without_names(known, account.username) == without_names(unknown, nobody)
        assert sorted(known.headers) == sorted(unknown.headers)


@pytest.mark.parametrize("spelling", ["{}", " {} ", "{upper}", "\0{}"])
def test_spellings_of_a_name_share_its_count(spelling: str) -> None:
    account = make_account()
    for _ in range(LIMIT):
        try_password(browser(), account.username)
    other = spelling.format(account.username, upper=account.username.upper())
    assert try_password(browser(), other).status_code == 429


def test_an_address_has_a_limit_over_all_names_and_then_costs_no_name() -> None:
    client, victim = browser("198.51.100.7"), make_account()
    for _ in range(10 * LIMIT):
        assert try_password(client, unique("nobody")).status_code == 200
    for _ in range(LIMIT + 1):
        assert try_password(client, victim.username).status_code == 429
    assert try_password(browser("198.51.100.8"), victim.username, PASSWORD).status_code == 302


def test_addresses_of_one_ipv6_network_count_together() -> None:
    for number in range(10 * LIMIT):
        try_password(browser(f"2001:db8:1:2::{number:x}"), unique("nobody"))
    assert try_password(browser("2001:db8:1:2:ffff::1"), unique("nobody")).status_code == 429
    assert try_password(browser("2001:db8:1:3::1"), unique("nobody")).status_code == 200


def test_behind_a_trusted_proxy_the_callers_own_address_counts_and_nobody_else_can_claim_one() -> None:
    def through(proxy: str, caller: str) -> int:
        client = Client(headers={"host": "localhost", "x-forwarded-for": caller}, REMOTE_ADDR=proxy)
        return int(try_password(client, unique("nobody")).status_code)

    with override_settings(GATEWAY_TRUSTED_PROXIES=("10.0.0.0/8",)):
        for _ in range(10 * LIMIT):
            through("10.1.1.1", "192.0.2.77")
        assert through("10.1.1.1", "192.0.2.77") == 429
        assert through("10.1.1.1", "192.0.2.78") == 200
        assert through("10.1.1.1", "192.0.2.99, 192.0.2.77") == 429
        for number in range(10 * LIMIT):
            through("192.0.2.200", f"192.0.2.{number}")
        assert through("192.0.2.200", "192.0.2.222") == 429


def test_a_connection_without_an_address_is_counted_too() -> None:
    for _ in range(10 * LIMIT):
        assert try_password(browser(""), unique("nobody")).status_code == 200
    assert try_password(browser(""), unique("nobody")).status_code == 429


def test_attempts_at_once_get_no_further_than_attempts_in_turn() -> None:
    account, statuses = make_account(), []

    def attempt() -> None:
        statuses.append(try_password(browser(), account.username).status_code)
        connection.close()

    threads = [threading.Thread(target=attempt) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(statuses) == [200] * LIMIT + [429] * (12 - LIMIT)


def test_the_first_refusal_of_a_window_is_one_event() -> None:
    account, before = make_account(), len(events())
    for _ in range(LIMIT + 5):
        try_password(browser(), account.username)
    (event,) = events()[: len(events()) - before]
    assert (event.object_type, event.object_id) == ("auth.user", str(account.user.pk))
    assert event.after == {"limit": f"name: {LIMIT} in {PERIOD_S} s", "address": "192.0.2.1"}


def test_what_somebody_typed_as_a_name_is_not_written_down() -> None:
    typed, before = "my-secret-password-by-mistake", len(events())
    for _ in range(LIMIT + 1):
        try_password(browser(), typed)
    (event,) = events()[: len(events()) - before]
    assert event.object_label == "a user name without an account"
    assert typed not in str(vars(event))


def test_an_address_at_its_limit_is_one_event() -> None:
    before = len(events())
    for _ in range(10 * LIMIT + 3):
        try_password(browser("203.0.113.9"), unique("nobody"))
    (event,) = events()[: len(events()) - before]
    assert (event.object_type, event.object_label) == ("address", "203.0.113.9")


def test_without_the_counter_store_each_process_counts_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise RedisConnectionError("refused")

    monkeypatch.setattr("django.core.cache.backends.redis.RedisCacheClient.get_client", away)
    account = make_account()
    statuses = [try_password(browser(), account.username).status_code for _ in range(LIMIT + 1)]
    assert statuses == [200] * LIMIT + [429]


def test_the_counters_are_in_the_store_that_all_processes_share() -> None:
    try_password(browser(), make_account().username)
    assert store.mget(store.keys("portal:*")) == [b"1", b"1"]


@pytest.mark.parametrize("closed", [True, False])
def test_a_closed_account_is_answered_like_a_wrong_password(closed: bool) -> None:
    account = make_account()
    User.objects.filter(pk=account.user.pk).update(is_active=not closed)
    answer = try_password(browser(), account.username, PASSWORD if closed else "wrong")
    assert answer.status_code == 200
    assert "Please enter a correct username and password" in answer.content.decode()


@pytest.mark.parametrize("username", ["", "x" * 100_000, "\0", "\u202e", "' OR 1=1 --", "<script>"])
def test_any_name_at_all_is_answered(username: str) -> None:
    for _ in range(LIMIT):
        answer = try_password(browser(), username)
        assert answer.status_code == 200
        assert "<script>alert" not in answer.content.decode()
    assert try_password(browser(), username).status_code == 429


# --- One's own password ----------------------------------------------------------------------------------


def signed_in(account: Account) -> Client:
    client = browser()
    assert try_password(client, account.username, PASSWORD).status_code == 302
    return client


def change(client: Client, old: str, new: str = NEW_PASSWORD, again: str = "") -> Any:
    return client.post(
        "/password/", {"old_password": old, "new_password1": new, "new_password2": again or new}
    )


def own_events(account: Account) -> list[Any]:
    return list(AdminEvent.objects.filter(object_type="auth.user", object_id=str(account.user.pk)))


def test_ones_own_new_password_is_recorded_and_ends_the_other_sessions() -> None:
    account = make_account()
    here, elsewhere = signed_in(account), signed_in(account)
    assert "Your old password was entered incorrectly" in change(here, "wrong").content.decode()
    assert own_events(account) == []
    assert change(here, PASSWORD)["location"] == "/"
    assert "Your password was changed" in here.get("/").content.decode()
    assert account.username not in elsewhere.get("/").content.decode()
    (event,) = own_events(account)
    assert (event.actor, event.action, event.after) == (
        account.username,
        "user.change",
        {"password": "replaced"},
    )
    assert User.objects.get(pk=account.user.pk).check_password(NEW_PASSWORD)


@pytest.mark.parametrize(
    ("new", "again", "message"),
    [
        ("4short!", "", "at least 12 characters"),
        ("123456789012345", "", "entirely numeric"),
        (NEW_PASSWORD, "another one altogether", "password fields didn"),
    ],
)
def test_a_poor_password_is_refused_with_the_rule(new: str, again: str, message: str) -> None:
    account = make_account()
    answer = change(signed_in(account), PASSWORD, new, again)
    assert answer.status_code == 200
    assert message in answer.content.decode()
    assert new not in answer.content.decode()
    assert User.objects.get(pk=account.user.pk).check_password(PASSWORD)


def test_a_stolen_session_cannot_try_passwords_without_end() -> None:
    account = make_account()
    client = signed_in(account)
    statuses = [change(client, "wrong").status_code for _ in range(LIMIT)]
    assert statuses == [200] * (LIMIT - 1) + [429]
    assert "Too many attempts" in change(client, PASSWORD).content.decode()
    assert User.objects.get(pk=account.user.pk).check_password(PASSWORD)


def test_the_password_page_is_for_those_signed_in() -> None:
    for answer in (browser().get("/password/"), change(browser(), PASSWORD)):
        assert answer["location"] == "/sign-in/?next=/password/"
    client = Client(headers={"host": "localhost"})
    client.force_login(make_account().user)
    assert client.get("/password/").status_code == 200


def test_sessions_end_and_are_cleared_away() -> None:
    client = signed_in(make_account())
    running = Session.objects.get(pk=client.cookies["sessionid"].value)
    left = running.expire_date - timezone.now()
    assert timedelta(hours=11) < left <= timedelta(hours=12)
    ended = Session.objects.get(pk=signed_in(make_account()).cookies["sessionid"].value)
    Session.objects.filter(pk=ended.pk).update(expire_date=timezone.now())
    clear_sessions()
    assert list(Session.objects.filter(pk__in=[running.pk, ended.pk])) == [running]


def test_closing_an_account_ends_its_sessions() -> None:
    account = make_account()
    client = signed_in(account)
    User.objects.filter(pk=account.user.pk).update(is_active=False)
    assert account.username not in client.get("/").content.decode()


# --- The settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rate"), [("10/10m", (10, 600)), ("5/s", (5, 1)), ("1/2h", (1, 7200)), ("300/1d", (300, 86400))]
)
def test_a_rate_is_a_number_and_a_time(
    monkeypatch: pytest.MonkeyPatch, text: str, rate: tuple[int, int]
) -> None:
    monkeypatch.setenv("GATEWAY_SIGN_IN_PER_NAME", text)
    assert env.rate("GATEWAY_SIGN_IN_PER_NAME", "1/s") == rate


@pytest.mark.parametrize(
    "text", ["", "10", "0/m", "10/", "10/0m", "-1/m", "10/m ", "ten/m", "10/10w", "10/m\n"]
)
def test_another_text_stops_the_start(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("GATEWAY_SIGN_IN_PER_NAME", text)
    with pytest.raises(ImproperlyConfigured, match="must be a number and a time, such as 10/10m"):
        env.rate("GATEWAY_SIGN_IN_PER_NAME", "1/s")
