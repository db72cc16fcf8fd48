"""The form of a key, its digest, and what the database knows of it."""

from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from audit.models import AdminEvent
from teams.key_holder import find_key_holder
from teams.keys import KEY_LENGTH, PREFIX, Peppers, generate_key, hint_of, is_well_formed, key_from_number
from teams.models import ApiKey, Application, Department, Member, Role, Team
from teams.services import create_key, revoke_key
from tests.factories import make_team, unique

PEPPERS = Peppers({1: b"a" * 32, 2: b"b" * 32})


def test_a_new_key_has_256_bits_and_a_checksum() -> None:
    keys = {generate_key() for _ in range(200)}
    assert len(keys) == 200
    assert all(is_well_formed(key) and len(key) == KEY_LENGTH and key.startswith(PREFIX) for key in keys)
    assert 62**43 > 2**256


@given(number=st.integers(0, 62**43 - 1), position=st.integers(0, KEY_LENGTH - 1), letter=st.characters())
def test_one_wrong_character_is_noticed(number: int, position: int, letter: str) -> None:
    key = key_from_number(number)
    assert is_well_formed(key)
    changed = key[:position] + letter + key[position + 1 :]
    assert is_well_formed(changed) == (changed == key)


def test_the_digest_depends_on_the_pepper_and_its_version() -> None:
    key = generate_key()
    assert PEPPERS.current == 2
    assert PEPPERS.digests(key) == [PEPPERS.digest(key, 2), PEPPERS.digest(key, 1)]
    assert PEPPERS.digest(key, 1) != PEPPERS.digest(key, 2)
    assert key not in repr(PEPPERS)
    assert "aaaa" not in repr(PEPPERS)


@pytest.mark.parametrize("text", ["", "1", "1:zz", "1:" + "ab" * 31, "x:" + "ab" * 32, "0:" + "ab" * 32])
def test_bad_peppers_stop_the_start(text: str) -> None:
    with pytest.raises(ImproperlyConfigured):
        Peppers.parse(text)


def test_a_key_is_stored_as_digest_and_hint_and_its_making_recorded() -> None:
    created = create_key(make_team(), "A key", actor="somebody")
    row = ApiKey.objects.get(pk=created.key.pk)
    assert created.secret not in str(vars(row))
    assert created.secret not in repr(created)
    assert row.hint == hint_of(created.secret) == f"sk-gw_...{created.secret[-4:]}"
    assert row.expires_at is not None
    assert 89 <= (row.expires_at - timezone.now()).days <= 90
    event = AdminEvent.objects.get(object_type="teams.apikey", object_id=str(row.pk))
    assert (event.actor, event.action) == ("somebody", "key.create")
    assert created.secret not in str(vars(event))


def test_a_key_and_its_event_are_one_transaction() -> None:
    team = make_team()

    def fail_afterwards() -> None:
        with transaction.atomic():
            create_key(team, "A key", actor="somebody")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_afterwards()
    assert not ApiKey.objects.filter(team=team).exists()


def is_usable(key: ApiKey) -> bool:
    holder = find_key_holder([bytes(key.digest)])
    assert holder is not None
    return holder.is_usable_at(timezone.now())


def test_revoking_is_final_and_recorded_once() -> None:
    created = create_key(make_team(), "A key", actor="somebody")
    assert is_usable(created.key)
    assert revoke_key(created.key, actor="somebody")
    assert not revoke_key(created.key, actor="somebody")
    assert not is_usable(created.key)
    assert AdminEvent.objects.filter(action="key.revoke", object_id=str(created.key.pk)).count() == 1


def test_a_key_that_has_expired_before_it_is_made_is_refused() -> None:
    with pytest.raises(ValidationError, match="has passed"):
        create_key(make_team(), "A key", actor="x", expires_at=timezone.now() - timedelta(seconds=1))


def test_a_given_key_must_be_well_formed() -> None:
    with pytest.raises(ValidationError):
        create_key(make_team(), "A key", actor="x", secret="sk-gw_guess")
    given_key = generate_key()
    assert create_key(make_team(), "A key", actor="x", secret=given_key).secret == given_key


def test_an_application_of_another_team_is_refused_by_form_and_database() -> None:
    mine, other = make_team(), make_team()
    theirs = Application.objects.create(team=other, slug="app", name="App")
    with pytest.raises(ValidationError):
        create_key(mine, "A key", actor="x", application=theirs)
    key = create_key(mine, "A key", actor="x").key
    with pytest.raises(IntegrityError), transaction.atomic():
        ApiKey.objects.filter(pk=key.pk).update(application=theirs)


@pytest.mark.parametrize("slug", ["", "Upper", "-first", "with space", "a" * 64, "ünï", "a\n"])
def test_slugs_have_one_form_in_form_and_database(slug: str) -> None:
    department = make_team().department
    with pytest.raises(ValidationError):
        Team(department=department, slug=slug, name="x").full_clean()
    with pytest.raises(Exception), transaction.atomic():  # noqa: B017, PT011 - too long is DataError, else IntegrityError
        Team.objects.create(department=department, slug=slug, name="x")


def test_a_time_zone_must_exist() -> None:
    with pytest.raises(ValidationError, match="IANA"):
        Department(slug="x", name="x", time_zone="Mars/Olympus").full_clean()


def test_a_members_scope_must_fit_its_role() -> None:
    from django.contrib.auth.models import User

    team = make_team()
    user = User.objects.create_user(unique("user"))
    wrong: list[dict[str, Any]] = [
        {"role": Role.PLATFORM_ADMIN, "team": team},
        {"role": Role.DEPARTMENT_MANAGER},
        {"role": Role.DEPARTMENT_MANAGER, "department": team.department, "team": team},
        {"role": Role.TEAM_OWNER, "department": team.department},
        {"role": Role.VIEWER},
        {"role": "invented"},
    ]
    for fields in wrong:
        with pytest.raises(IntegrityError), transaction.atomic():
            Member.objects.create(user=user, **fields)
    Member.objects.create(user=user, role=Role.FINANCE)
    with pytest.raises(IntegrityError), transaction.atomic():
        Member.objects.create(user=user, role=Role.FINANCE)
