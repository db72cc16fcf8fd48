"""Every system check, by a setting that breaks it; and that a good installation is told nothing."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import CheckMessage, run_checks
from django.core.exceptions import ImproperlyConfigured

from gateway_site import env
from gateway_site.checks.places import file_system_type
from gateway_site.home import BASE_DIR, new_secrets
from teams.keys import generate_key

POSTGRES = {"ENGINE": "django.db.backends.postgresql", "NAME": "gateway", "USER": "app"}
OWNER = {**POSTGRES, "USER": "owner"}
CLEAN: dict[str, Any] = {
    "SECRET_KEY": "".join(map(chr, range(40, 100))),
    "DATABASES": {"default": POSTGRES, "owner": OWNER},
    "REDIS_URL": "redis://valkey.example.com:6379/0",
    "GATEWAY_COUNTERS_URL": "redis://valkey.example.com:6379/0",
    "GATEWAY_SPOOL_DIR": BASE_DIR / "spool",
    "GATEWAY_SPOOL_MAX_BYTES": 2**20,
    "ALLOWED_HOSTS": ["gateway.example.com"],
    "GATEWAY_HTTPS": True,
}


def messages_of(**overrides: Any) -> list[CheckMessage]:
    """What our checks say under these settings. (Django's own override warns of DATABASES.)"""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (CLEAN | overrides).items():
            patch.setattr(settings, name, value)
        return [message for message in run_checks() if str(message.id).startswith("gateway_site")]


def found(**overrides: Any) -> set[str]:
    """The ids of our checks that speak under these settings."""
    return {str(message.id) for message in messages_of(**overrides)}


def databases(default: Mapping[str, str] = POSTGRES, owner: Mapping[str, str] = OWNER) -> dict[str, Any]:
    return {"default": dict(default), "owner": dict(owner)}


BREAKS: list[tuple[str, dict[str, Any]]] = [
    ("E001", {"GATEWAY_KEY_PEPPERS": "1:short"}),
    ("E001", {"GATEWAY_KEY_PEPPERS": ""}),
    ("E002", {"GATEWAY_FIELD_KEYS": ()}),
    ("E002", {"GATEWAY_FIELD_KEYS": ("no key",)}),
    ("E003", {"GATEWAY_PRIVATE_BACKENDS": frozenset({"llm.internal"})}),
    ("E004", {"SECRET_KEY": "short"}),
    ("E004", {"SECRET_KEY": "ab" * 40}),
    ("E005", {"GATEWAY_METRICS_TOKEN": "short"}),
    ("E005", {"GATEWAY_METRICS_TOKEN": "with a space " * 4}),
    ("E005", {"GATEWAY_METRICS_TOKEN": generate_key()}),
    ("E005", {"GATEWAY_METRICS_TOKEN": CLEAN["SECRET_KEY"]}),
    ("E006", {"DATABASES": databases(default=POSTGRES | {"ENGINE": "django.db.backends.sqlite3"})}),
    ("E006", {"DATABASES": databases(owner=OWNER | {"ENGINE": "django.db.backends.mysql"})}),
    ("E006", {"DATABASES": databases(default=POSTGRES | {"NAME": ""}, owner=OWNER | {"NAME": ""})}),
    ("E006", {"DATABASES": databases(default=POSTGRES | {"USER": ""})}),
    *(
        ("E007", {name: url})
        for name in ("REDIS_URL", "GATEWAY_COUNTERS_URL")
        for url in (
            "valkey.example.com:6379",
            "http://valkey.example.com",
            "redis://",
            "redis://host:port/0",
            "redis://host:0/0",
            "redis://host:6379/zero",
            "unix://run/valkey.sock",
            "unix:///run/valkey.sock?db=first",
            "redis://[::1/0",
        )
    ),
    ("E008", {"GATEWAY_SPOOL_DIR": Path("spool")}),
    ("E008", {"GATEWAY_CREDENTIALS_DIR": Path("secrets")}),
    ("E008", {"STATIC_ROOT": "static"}),
    ("E009", {"ALLOWED_HOSTS": []}),
    ("E009", {"ALLOWED_HOSTS": ["https://gateway.example.com"]}),
    ("E009", {"ALLOWED_HOSTS": ["gateway.example.com:443"]}),
    ("E011", {"DEBUG": True}),
    ("E011", {"DEBUG": True, "GATEWAY_HTTPS": False}),
    ("E010", {"GATEWAY_TRUSTED_PROXIES": ("proxy.example.com",)}),
    ("W010", {"GATEWAY_TRUSTED_PROXIES": ("0.0.0.0/0",)}),
    ("W001", {"DATABASES": databases(owner=POSTGRES)}),
    ("W002", {"GATEWAY_METRICS_TOKEN": ""}),
    ("W003", {"DATABASES": databases(owner=OWNER | {"NAME": "other"})}),
    ("W004", {"GATEWAY_SPOOL_DIR": BASE_DIR / "manage.py"}),
    ("W005", {"GATEWAY_SPOOL_DIR": Path("/dev/shm/gateway/spool")}),  # noqa: S108 - a place in memory
    ("W006", {"GATEWAY_SPOOL_MAX_BYTES": 2**60}),
    ("W007", {"GATEWAY_MAX_BODY_BYTES": 2**30}),
    ("W007", {"GATEWAY_MAX_ANSWER_BYTES": 2**30}),
    ("W008", {"GATEWAY_KEEPALIVE_S": 60}),
    ("W009", {"STATIC_ROOT": str(BASE_DIR / "docs")}),
    ("W012", {"ALLOWED_HOSTS": ["*"]}),
    ("W011", {"GATEWAY_HTTPS": False}),
]


def test_a_good_installation_is_told_nothing() -> None:
    assert found() == set()
    for good in (
        {"REDIS_URL": "unix:///run/valkey.sock?db=1"},
        {"GATEWAY_COUNTERS_URL": "rediss://user:password@node-1.example.com"},
        {"REDIS_URL": "rediss://:password@valkey.example.com"},
        {"ALLOWED_HOSTS": ["localhost"], "GATEWAY_HTTPS": False, "DEBUG": True},
        {"ALLOWED_HOSTS": ["[::1]", ".example.com"]},
        {"STATIC_ROOT": str(settings.BASE_DIR / "static")},
    ):
        assert found(**good) == set(), good


@pytest.mark.parametrize(("expected", "overrides"), BREAKS)
def test_a_wrong_setting_is_found_at_start(expected: str, overrides: dict[str, Any]) -> None:
    if expected == "W005" and not Path("/dev/shm").exists():  # noqa: S108
        pytest.skip("no file system in memory here")
    assert f"gateway_site.{expected}" in found(**overrides)


def test_no_check_shows_what_may_be_secret() -> None:
    secret = "hunter2-hunter2"
    messages = messages_of(
        REDIS_URL=f"redis://:{secret}@host:port",
        SECRET_KEY=secret,
        GATEWAY_METRICS_TOKEN=secret,
        GATEWAY_KEY_PEPPERS=f"1:{secret}",
        GATEWAY_FIELD_KEYS=(secret,),
    )
    assert len(messages) >= 5
    assert secret not in str(messages)


def checks_in_code() -> set[str]:
    texts = [path.read_text() for path in (BASE_DIR / "gateway_site" / "checks").glob("*.py")]
    return set(re.findall(r'id="gateway_site\.([EW]\d+)"', "".join(texts)))


def test_every_check_has_a_case_and_a_description_and_no_other_is_described() -> None:
    page = (BASE_DIR / "docs" / "reference" / "checks.md").read_text()
    described = set(re.findall(r"^\| `gateway_site\.([EW]\d+)`", page, re.MULTILINE))
    of_a_server = {"W013", "W014"}  # tests/test_health.py
    assert checks_in_code() == {expected for expected, _ in BREAKS} | of_a_server == described


def test_every_setting_of_settings_py_is_in_its_docs_section_with_a_default() -> None:
    page = (BASE_DIR / "docs" / "reference" / "settings.md").read_text()
    tree = ast.parse((BASE_DIR / "gateway_site" / "settings.py").read_text())
    reads = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "env"
    ]
    assert len(reads) > 15
    for read in reads:
        name, *defaults = [
            ast.literal_eval(argument) for argument in read.args if isinstance(argument, ast.Constant)
        ]
        (row,) = re.findall(rf"^\| `{name}` \| (.+)$", page, re.MULTILINE)
        if (
            isinstance(read.func, ast.Attribute)
            and read.func.attr == "text"
            and len(read.args) == 1
            and name != "DATABASE_URL"
        ):
            assert row.startswith("required"), name
        if defaults and defaults[0]:
            assert str(defaults[0]) in row, name


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("GATEWAY_LOG_LEVEL", "LOUD", "GATEWAY_LOG_LEVEL must be one of DEBUG"),
        ("DATABASE_URL", "nothing", "DATABASE_URL is not a database URL"),
        ("DATABASE_URL", "postgresql://app:hunter2@host:port/gateway", "DATABASE_URL is not a database URL"),
        ("DATABASE_OWNER_URL", "http://hunter2", "DATABASE_OWNER_URL is not a database URL"),
        ("GATEWAY_KEEPALIVE_S", "soon", "GATEWAY_KEEPALIVE_S must be a whole number"),
        ("GATEWAY_SPOOL_MAX_BYTES", "1", "GATEWAY_SPOOL_MAX_BYTES must be at least 201326592"),
        ("GATEWAY_HTTPS", "perhaps", "GATEWAY_HTTPS must be true or false"),
        (
            "GATEWAY_SECRET_KEY_FILE",
            "/nowhere",
            "Set GATEWAY_SECRET_KEY or GATEWAY_SECRET_KEY_FILE, not both",
        ),
    ],
)
def test_what_cannot_be_read_stops_every_command_and_is_named(name: str, value: str, message: str) -> None:
    run = manage("check", **{name: value})
    assert run.returncode != 0
    assert message in run.stderr
    assert "hunter2" not in run.stderr


def test_a_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_X_FILE", "/nowhere")
    with pytest.raises(ImproperlyConfigured, match="GATEWAY_X_FILE cannot be read: No such file"):
        env.text("GATEWAY_X")


def manage(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=BASE_DIR,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_production_installation_passes_djangos_deployment_checks(tmp_path: Path) -> None:
    run = manage(
        "check",
        "--deploy",
        "--fail-level",
        "WARNING",
        **new_secrets(),
        GATEWAY_ALLOWED_HOSTS="gateway.example.com",
        GATEWAY_HTTPS="1",
        GATEWAY_KEEPALIVE_S="15",
        DJANGO_ALLOW_ASYNC_UNSAFE="",  # the tests' own
        GATEWAY_SPOOL_DIR=str(BASE_DIR / "spool"),
    )
    assert run.stderr == ""
    assert run.stdout.strip() == "System check identified no issues (2 silenced)."


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/var/lib/spool", "nfs4"), ("/var/liberty", "ext4"), ("/dev/shm", "tmpfs")],  # noqa: S108
)
def test_the_longest_mount_point_that_covers_a_path_tells_its_kind(
    tmp_path: Path, path: str, kind: str
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/a / ext4 rw 0 0\nhost:/x /var/lib nfs4 rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0\n")
    assert file_system_type(Path(path), mounts) == kind
    assert file_system_type(Path(path), tmp_path / "none") == ""
