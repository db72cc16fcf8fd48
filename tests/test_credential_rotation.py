"""`rotate_credentials`: every stored credential comes under the first field key, and stays the same credential."""

import threading
from collections.abc import Iterator
from io import StringIO

import pytest
from cryptography.fernet import Fernet
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, transaction
from django.test import override_settings

from audit.models import AdminEvent
from guards.external_models import ExternalGuard
from outbound.credentials import CredentialError, decrypt_credential, encrypt_credential
from routing.models import Backend
from routing.services import rotate_credentials
from tests.factories import BACKEND_SECRET, make_backend

URL = "https://rotation.example/v1"


@pytest.fixture
def new_keys() -> tuple[str, ...]:
    return (Fernet.generate_key().decode(), *settings.GATEWAY_FIELD_KEYS)


@pytest.fixture(autouse=True)
def _leaves_nothing_behind() -> Iterator[None]:
    """Rotated credentials would be unreadable to the rest of the run."""
    backends = {row.pk: row.credential_encrypted for row in Backend.objects.all()}
    guards = {row.pk: row.credential_encrypted for row in ExternalGuard.objects.all()}
    yield
    for guard in ExternalGuard.objects.all():
        ExternalGuard.objects.filter(pk=guard.pk).update(credential_encrypted=guards.get(guard.pk))
    for row in Backend.objects.all():
        if row.pk in backends:
            Backend.objects.filter(pk=row.pk).update(credential_encrypted=backends[row.pk])
        else:
            row.prices.all().delete()
            row.delete()


def stored(backend: Backend) -> bytes:
    return bytes(Backend.objects.get(pk=backend.pk).credential_encrypted or b"")


def rotate() -> str:
    out = StringIO()
    call_command("rotate_credentials", batch_size=2, stdout=out)
    return out.getvalue()


def test_all_credentials_open_with_the_new_key_alone(new_keys: tuple[str, ...]) -> None:
    backends = [make_backend(URL, prices={}) for _ in range(5)]
    with override_settings(GATEWAY_FIELD_KEYS=new_keys):
        rotate()
    with override_settings(GATEWAY_FIELD_KEYS=new_keys[:1]):
        assert {decrypt_credential(stored(backend), URL) for backend in backends} == {BACKEND_SECRET}


def test_it_counts_and_does_nothing_the_second_time(new_keys: tuple[str, ...]) -> None:
    backend = make_backend(URL, prices={})
    total = Backend.objects.exclude(credential_encrypted=None).count()
    with override_settings(GATEWAY_FIELD_KEYS=new_keys):
        assert rotate() == f"Encrypted anew: {total}. Under the first key already: 0.\n"
        before = stored(backend)
        assert rotate() == f"Encrypted anew: 0. Under the first key already: {total}.\n"
        assert stored(backend) == before


def test_each_rotation_is_an_event_without_the_secret(new_keys: tuple[str, ...]) -> None:
    backend = make_backend(URL, prices={})
    with override_settings(GATEWAY_FIELD_KEYS=new_keys):
        rotate()
    event = AdminEvent.objects.get(action="backend.rotate_credential", object_id=str(backend.pk))
    assert event.actor == "rotate_credentials"
    assert event.after == {"credential_encrypted": "encrypted anew"}


def test_one_that_cannot_be_read_is_named_and_the_rest_goes_on(new_keys: tuple[str, ...]) -> None:
    with override_settings(GATEWAY_FIELD_KEYS=(Fernet.generate_key().decode(),)):
        lost = make_backend(URL, prices={})
    good, before = make_backend(URL, prices={}), stored(lost)
    out = StringIO()
    with override_settings(GATEWAY_FIELD_KEYS=new_keys):
        with pytest.raises(CommandError, match=lost.name) as refused:
            call_command("rotate_credentials", stdout=out)
        assert good.name not in str(refused.value)
        assert refused.value.returncode == 1
        assert BACKEND_SECRET not in f"{out.getvalue()}{refused.value}"
    assert stored(lost) == before
    with override_settings(GATEWAY_FIELD_KEYS=new_keys[:1]):
        assert decrypt_credential(stored(good), URL) == BACKEND_SECRET


def test_a_rotated_credential_stays_bound_to_its_host(new_keys: tuple[str, ...]) -> None:
    backend = make_backend(URL, prices={})
    with override_settings(GATEWAY_FIELD_KEYS=new_keys):
        rotate()
        with pytest.raises(CredentialError, match="another host"):
            decrypt_credential(stored(backend), "https://elsewhere.example/v1")


def test_backends_without_a_stored_credential_are_left_alone(new_keys: tuple[str, ...]) -> None:
    plain = Backend.objects.create(name="rotation-plain", base_url=URL, upstream_model="m")
    with override_settings(GATEWAY_FIELD_KEYS=new_keys):
        rotate()
    assert Backend.objects.get(pk=plain.pk).credential_encrypted is None


def test_a_credential_entered_meanwhile_is_not_lost(new_keys: tuple[str, ...]) -> None:
    """Somebody replaces the credential in a transaction that began before: the rotation waits and takes the new."""
    backend = make_backend(URL, prices={})

    def rotate_elsewhere() -> None:
        rotate_credentials(actor="tests")
        connection.close()

    with override_settings(GATEWAY_FIELD_KEYS=new_keys):
        with transaction.atomic():
            row = Backend.objects.select_for_update().get(pk=backend.pk)
            thread = threading.Thread(target=rotate_elsewhere)
            thread.start()
            row.credential_encrypted = encrypt_credential("entered-meanwhile", URL)
            row.save()
        thread.join(20)
        assert not thread.is_alive()
        assert decrypt_credential(stored(backend), URL) == "entered-meanwhile"


@pytest.mark.parametrize("keys", [(), ("no key",)])
def test_without_a_usable_key_it_refuses(keys: tuple[str, ...]) -> None:
    make_backend(URL, prices={})
    with override_settings(GATEWAY_FIELD_KEYS=keys), pytest.raises(CommandError, match="GATEWAY_FIELD_KEYS"):
        call_command("rotate_credentials", skip_checks=True)


def test_a_batch_has_at_least_one_row() -> None:
    with pytest.raises(CommandError, match="at least 1"):
        call_command("rotate_credentials", batch_size=0)


def test_external_guards_are_rotated_as_well(new_keys: tuple[str, ...]) -> None:
    guard = ExternalGuard.objects.create(
        name="ROTATED",
        form="lakera",
        base_url=URL,
        credential_encrypted=encrypt_credential(BACKEND_SECRET, URL),
    )
    try:
        with override_settings(GATEWAY_FIELD_KEYS=new_keys):
            rotate()
        with override_settings(GATEWAY_FIELD_KEYS=new_keys[:1]):
            guard.refresh_from_db()
            assert decrypt_credential(bytes(guard.credential_encrypted or b""), URL) == BACKEND_SECRET
        event = AdminEvent.objects.filter(action="externalguard.rotate_credential").latest("at")
        assert event.object_id == str(guard.pk)
    finally:
        guard.delete()
