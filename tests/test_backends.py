"""Backend addresses and credentials: what may be called, and who may read what."""

from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ValidationError
from django.test import override_settings

from outbound.addresses import ForbiddenAddress, check_address, check_base_url
from outbound.credentials import CredentialError, decrypt_credential, encrypt_credential, resolve_credential
from routing.models import Backend
from routing.snapshot import load_snapshot
from tests.factories import BACKEND_SECRET, make_backend, make_model

ALLOWED = {"127.0.0.1:8001", "llm.internal:8000", "10.0.0.5:443"}
URL = "https://api.example.com/v1"


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "https://api.example.com:8443/openai/v1",
        "http://127.0.0.1:8001/v1",
        "http://llm.internal:8000/v1",
        "https://10.0.0.5/v1",
    ],
)
def test_addresses_that_may_be_called(url: str) -> None:
    check_base_url(url, private=ALLOWED)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example.com/v1",
        "ftp://api.example.com/",
        "file:///etc/passwd",
        "http://api.example.com/v1",
        "https://user:secret@api.example.com/v1",
        "https://api.example.com/v1?x=1",
        "https://api.example.com/v1#x",
        "https://127.0.0.1/v1",
        "https://127.1/v1",
        "https://0x7f000001/v1",
        "https://2130706433/v1",
        "https://[::1]/v1",
        "https://[::ffff:127.0.0.1]/v1",
        "https://localhost/v1",
        "https://0.0.0.0/v1",
        "https://169.254.169.254/latest/meta-data",
        "https://[fe80::1]/v1",
        "https://[fd00:ec2::254]/v1",
        "https://100.100.100.200/v1",
        "https://metadata.google.internal/v1",
        "https://METADATA.google.internal./v1",
        "https://10.0.0.6/v1",
        "https://192.168.1.1/v1",
        "https://[fd12::1]/v1",
        "http://127.0.0.1:8002/v1",
        "https://api.example.com:99999/v1",
        "https://[broken/v1",
    ],
)
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(ForbiddenAddress):
        check_base_url(url, private=ALLOWED)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "fe80::1",
        "fec0::1",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "224.0.0.1",
        "0.0.0.0",
        "::",
        "168.63.129.16",
        "::ffff:0:169.254.169.254",
        "64:ff9b:1::a9fe:a9fe",
        "fd20:ce::254",
        "fd00:ec2::23",
    ],
)
def test_no_allow_list_opens_link_local_and_metadata(address: str) -> None:
    with pytest.raises(ForbiddenAddress):
        check_address(ip_address(address), private_allowed=True)


@pytest.mark.parametrize(
    "address",
    ["::1", "::127.0.0.1", "64:ff9b::7f00:1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "::ffff:0:127.0.0.1"],
)
def test_forms_of_private_addresses_need_the_allow_list(address: str) -> None:
    check_address(ip_address(address), private_allowed=True)
    with pytest.raises(ForbiddenAddress):
        check_address(ip_address(address), private_allowed=False)


def test_a_bad_address_is_refused_by_the_form() -> None:
    backend = Backend(
        name="b", base_url="https://169.254.169.254/v1", upstream_model="m", credential_reference="x"
    )
    with pytest.raises(ValidationError) as caught:
        backend.full_clean()
    assert set(caught.value.message_dict) == {"base_url", "credential_reference"}


def test_a_stored_credential_opens_for_its_host_only() -> None:
    encrypted = encrypt_credential("secret", URL)
    assert b"secret" not in encrypted
    assert decrypt_credential(encrypted, "https://API.example.com/other") == "secret"
    for other in ("https://evil.example.com/v1", "https://api.example.com:444/v1"):
        with pytest.raises(CredentialError, match="another host"):
            decrypt_credential(encrypted, other)


def test_credentials_outlive_a_key_rotation_and_not_the_loss_of_their_key() -> None:
    encrypted, new = encrypt_credential("secret", URL), Fernet.generate_key().decode()
    from django.conf import settings

    with override_settings(GATEWAY_FIELD_KEYS=(new, *settings.GATEWAY_FIELD_KEYS)):
        assert decrypt_credential(encrypted, URL) == "secret"
    with override_settings(GATEWAY_FIELD_KEYS=(new,)), pytest.raises(CredentialError) as caught:
        decrypt_credential(encrypted, URL)
    assert "secret" not in str(caught.value)


def test_references_to_environment_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_CREDENTIAL_A", "from-environment")
    path = tmp_path / "key"
    path.write_text("from-file\n")
    with override_settings(GATEWAY_CREDENTIALS_DIR=tmp_path):
        assert resolve_credential("env:GATEWAY_CREDENTIAL_A", None, URL) == "from-environment"
        assert resolve_credential(f"file:{path}", None, URL) == "from-file"
        assert resolve_credential("", None, URL) is None
        path.write_text("two\nlines")
        for unusable in (f"file:{path}", "env:GATEWAY_CREDENTIAL_NOT_SET", f"file:{tmp_path}/missing"):
            with pytest.raises(CredentialError) as caught:
                resolve_credential(unusable, None, URL)
            assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    "reference",
    [
        "env:GATEWAY_SECRET_KEY",
        "env:DATABASE_URL",
        "env:GATEWAY_CREDENTIAL_",
        "file:/etc/passwd",
        "file:relative",
        "file:{folder}/../outside",
        "file:{folder}/link",
        "file:{folder}",
        "https://elsewhere",
    ],
)
def test_a_reference_reaches_no_other_secret(reference: str, tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (tmp_path / "outside").write_text("another-secret")
    (folder / "link").symlink_to(tmp_path / "outside")
    with override_settings(GATEWAY_CREDENTIALS_DIR=folder), pytest.raises(CredentialError):
        resolve_credential(reference.format(folder=folder), None, URL)


def test_the_snapshot_shows_no_credential() -> None:
    backend = make_backend("https://api.example.com/v1")
    model = make_model(backend)
    snapshot = load_snapshot()
    (target,) = snapshot.models[model.name].targets
    assert target.credential == BACKEND_SECRET
    assert BACKEND_SECRET not in repr(snapshot)
