"""`export`: the whole configuration without secrets, which `apply` takes back, here and on an empty database."""

from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import override_settings
from django.utils import timezone

from gateway_site.configuration_file.exporting import export_pieces
from gateway_site.configuration_file.kinds import KINDS
from gateway_site.home import new_secrets
from teams.keys import Peppers, generate_key
from teams.models import ApiKey
from teams.services import create_key, pause_key, revoke_key, rotate_key
from tests.configuration_files import apply, counts, dump, export, faults_of, undone
from tests.factories import BACKEND_SECRET, make_backend, make_model, make_team
from tests.processes import manage

PASSWORD = {"password": "a password of a person"}
CREDENTIAL = {"credential": "a-credential-0123456789"}


@pytest.fixture(scope="module")
def document() -> dict[str, list[dict[str, Any]]]:
    """A company with a value in every field that an export has."""
    later = (timezone.now() + timedelta(days=30)).date().isoformat()
    return {
        "departments": [{"slug": "d", "name": "Ä “quoted” name: #1", "cost_centre": "0815", "time_zone": "Asia/Tokyo"}],
        "teams": [
            {"slug": "t", "department": "d", "name": "yes"},
            {"slug": "u", "department": "d", "name": "null", "is_active": False, "reserve": "typical"},
            {
                "slug": "v",
                "department": "d",
                "name": "V",
                "counters_away": "allow",
                "required_tags": ["eu"],
                "regions": ["west", "north"],
                "continues_streams": True,
            },
        ],
        "applications": [{"team": "t", "slug": "a", "name": "1.0"}],
        "people": [
            {"username": "p", "email": "p@example.com", "first_name": "P", "last_name": "Q", **PASSWORD},
            {"username": "q", "is_active": False},
        ],
        "members": [
            {"user": "p", "role": "platform_admin"},
            {"user": "p", "role": "department_manager", "department": "d"},
            {"user": "q", "role": "viewer", "team": "t"},
            {"user": "r", "role": "finance"},
        ],
        "backends": [
            {"name": "b", "base_url": "https://b.example/v1", "upstream_model": "m", **CREDENTIAL},
            {
                "name": "c",
                "base_url": "https://c.example/v1",
                "upstream_model": "gpt-4o",
                "credential_reference": "env:GATEWAY_CREDENTIAL_C",
                "connect_timeout_s": 1,
                "first_byte_timeout_s": 2,
                "idle_timeout_s": 3,
                "total_timeout_s": 4,
                "provider": "azure",
                "api_version": "2024-10-21",
                "entra_tenant": "contoso.example",
                "entra_client_id": "x",
                "tags": ["eu", "hipaa"],
                "region": "north",
                "quality": 7,
                "is_active": False,
            },
        ],
        "models": [
            {"name": "m", "description": "- not a list", "aliases": ["m-1", "m-2"], "granted_teams": ["t", "u"]},
            {"name": "n", "is_active": False, "quality_floor": 3},
        ],
        "routes": [{"model": "m", "backend": "b"}, {"model": "m", "backend": "c", "priority": 2}],
        "breaker_rules": [
            {"backend": "b", "name": "throttled", "failures": 1, "percent": 0, "statuses": "429"},
            {"backend": "b", "name": "usual"},
        ],
        "fallbacks": [{"model": "m", "cause": "context", "to": "n", "position": 2}],
        "recognisers": [
            {"name": "badge", "type": "BADGE", "pattern": "B-[0-9]{4}", "words": ["badge"]},
            {"name": "heron", "type": "HERON", "guard": "content", "keywords": ["Blue Heron", "BH-1"]},
            {"name": "shares", "type": "SHARES", "guard": "topics", "examples": ["Which shares?", "Buy, or sell"]},
        ],
        "external_guards": [
            {"name": "LAKERA", "form": "lakera", "base_url": "https://api.lakera.ai", "setting": "p-1"},
            {
                "name": "OURS",
                "form": "http",
                "base_url": "https://guard.example/classify",
                "credential_reference": "env:GATEWAY_CREDENTIAL_GUARD",
                "timeout_ms": 500,
            },
        ],
        "guard_policies": [
            {"name": "strict", "description": "For all", "is_default": True, "streams": "cut"},
        ],
        "guard_rules": [
            {
                "policy": "strict",
                "looks_at": "request",
                "guard": "pii",
                "act": "redact",
                "types": ["BADGE", "EMAIL_ADDRESS"],
                "tags": ["eu"],
            },
            {"policy": "strict", "looks_at": "request", "guard": "injection", "act": "block", "threshold_percent": 95},
            {"policy": "strict", "looks_at": "answer", "guard": "content", "types": ["HERON"]},
            {"policy": "strict", "looks_at": "request", "guard": "external", "types": ["LAKERA", "OURS"]},
        ],
        "policy_teams": [{"team": "t", "policy": "strict"}],
        "content_routes": [{"model": "n", "suit": "code", "to": "m"}],
        "prices": [
            {
                "backend": "b",
                "effective_from": "2026-11-01T12:34:56.789012Z",
                "input_usd_per_million": "0.123456789",
                "cached_input_usd_per_million": "0",
                "cache_write_usd_per_million": None,
                "output_usd_per_million": "100",
            },
            {"backend": "b", "effective_from": later, "input_usd_per_million": "1", "output_usd_per_million": "1"},
        ],
        "keys": [
            {"team": "t", "name": "k", "secret": generate_key(), "application": "a", "expires_at": "never"},
            {
                "team": "t",
                "name": "k",
                "secret": generate_key(),
                "expires_at": later,
                "scopes": ["embeddings"],
                "allowed_models": ["m", "not-yet"],
                "ip_ranges": ["10.0.0.0/8", "2001:db8::/32"],
                "required_tags": ["hipaa"],
                "is_paused": True,
            },
            {"team": "u", "name": "only one", "secret": generate_key(), "expires_at": "never"},
        ],
        "limits": [
            {"department": "d", "requests_per_minute": 1, "tokens_per_minute": 2, "requests_at_a_time": 3},
            {"team": "t", "end_user": "*", "model": "m", "tokens_per_minute": 100_000_000_000},
            {"team": "u", "key": "only one", "requests_at_a_time": 1},
        ],
        "budgets": [
            {"department": "d", "per": "year", "money_usd": "9000000000", "hard": True},
            {"team": "t", "per": "hour", "money_usd": "0.000000001", "hard": False},
            {"team": "t", "per": "hour", "tokens": 9_000_000_000_000_000_000},
            {"team": "t", "application": "a", "end_user": "no", "per": "day", "tokens": 1},
            {"team": "u", "key": "only one", "model": "m", "per": "month", "money_usd": "0.10"},
        ],
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configuration")


@pytest.fixture(scope="module")
def first_database(
    make_database: Callable[[str], dict[str, str]], folder: Path, document: dict[str, Any]
) -> dict[str, str]:
    """One with `document` in it."""
    environment = make_database("gateway_first")
    (folder / "document.yaml").write_text(dump(document))
    manage(["apply", str(folder / "document.yaml")], environment)
    return environment


@pytest.fixture(scope="module")
def moved(first_database: dict[str, str]) -> Any:
    """What `document` is as an export."""
    return yaml.safe_load(manage(["export"], first_database))


@pytest.mark.slow
def test_an_export_applied_to_an_empty_database_gives_the_same_configuration(
    make_database: Callable[[str], dict[str, str]], first_database: dict[str, str], folder: Path
) -> None:
    second_database, file = make_database("gateway_second"), folder / "export.yaml"
    exported = manage(["export"], first_database)
    file.write_text(exported)
    told = manage(["apply", str(file)], second_database)
    assert "Note: the new backend b has no credential.\n" in told
    assert manage(["export"], second_database) == exported
    assert set(yaml.safe_load(exported)) == {"version", *(kind.section for kind in KINDS)}
    assert manage(["apply", str(file), "--exit-code"], second_database).startswith("Added 0, changed 0")


def test_a_moved_key_is_recognised_by_its_value(moved: dict[str, Any], document: dict[str, Any]) -> None:
    with undone():
        apply(dump(moved))
        peppers = Peppers.parse(settings.GATEWAY_KEY_PEPPERS)
        for entry in document["keys"]:
            key = ApiKey.objects.get(digest__in=peppers.digests(entry["secret"]))
            assert key.team.slug == entry["team"]
            assert (key.paused_at is not None) is entry.get("is_paused", False)


def test_applying_an_export_where_it_came_from_changes_nothing(
    moved: dict[str, Any], first_database: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "export.yaml"
    manage(["export", "--output", str(file)], first_database)
    assert yaml.safe_load(file.read_text()) == moved
    assert manage(["apply", str(file), "--exit-code"], first_database).startswith(
        "Added 0, changed 0, removed 0"
    )


@pytest.mark.slow
def test_the_whole_of_this_runs_configuration_is_a_no_op_too() -> None:
    """Whatever other tests left behind."""
    make_model(make_backend("https://a.example/v1"), team=make_team())
    text = "".join(export_pieces())
    assert apply(text).startswith("Added 0, changed 0, removed 0, ")


def test_no_secret_is_in_an_export(moved: dict[str, Any], document: dict[str, Any]) -> None:
    secrets = [
        *PASSWORD.values(),
        *CREDENTIAL.values(),
        *(entry["secret"] for entry in document["keys"]),
        BACKEND_SECRET,
    ]
    make_backend("https://a.example/v1")
    for text in (dump(moved), "".join(export_pieces())):
        assert [secret for secret in secrets if secret in text] == []
        assert "pbkdf2" not in text
        assert "credential:" not in text


@pytest.mark.slow
def test_keys_that_have_ended_are_history_and_not_exported() -> None:
    team = make_team()
    live, paused, revoked, rotated = (create_key(team, word, actor="tests").key for word in "abcd")
    pause_key(paused, actor="tests")
    revoke_key(revoked, actor="tests")
    rotate_key(rotated, actor="tests", overlap=timedelta(0))
    keys = [(entry["name"], entry["is_paused"]) for entry in export()["keys"] if entry["team"] == team.slug]
    assert keys == [("a", False), ("b", True), ("d", False)]
    assert live.hint in str(export()["keys"])


def test_a_key_that_ended_since_the_export_is_left_out_and_told() -> None:
    team, past = make_team(), (timezone.now() - timedelta(days=1)).isoformat()
    entry = {"team": team.slug, "name": "K", "secret": generate_key(), "expires_at": past}
    assert apply({"keys": [entry]}) == counts(unchanged=1)
    assert not ApiKey.objects.filter(team=team).exists()


@pytest.mark.slow
def test_keys_do_not_move_to_other_peppers() -> None:
    team = make_team()
    create_key(team, "K", actor="tests")
    (entry,) = [entry for entry in export()["keys"] if entry["team"] == team.slug]
    with override_settings(GATEWAY_KEY_PEPPERS=new_secrets()["GATEWAY_KEY_PEPPERS"]):
        assert apply({"keys": [entry]}) == counts(unchanged=1)
        ApiKey.objects.filter(team=team).delete()
        (fault,) = faults_of({"keys": [entry]})
    assert "could never work here" in fault
    assert apply({"keys": [entry]}) == counts(added=1)


@pytest.mark.slow
def test_sections_can_be_left_out() -> None:
    make_model(make_backend("https://a.example/v1"), team=make_team())
    out = StringIO()
    call_command("export", without=["keys", "people", "members"], stdout=out)
    exported = yaml.safe_load(out.getvalue())
    assert not {"keys", "people", "members"} & set(exported)
    assert {"teams", "models", "backends"} <= set(exported)


def test_an_export_replaces_its_file_whole(tmp_path: Path) -> None:
    file = tmp_path / "export.yaml"
    file.write_text("old")
    call_command("export", output=file)
    assert yaml.safe_load(file.read_text())["version"] == 1
    assert list(tmp_path.iterdir()) == [file]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot be written"):
        call_command("export", output=tmp_path / "no" / "such" / "folder.yaml")


def test_prices_and_moments_are_exact(moved: dict[str, Any], first_database: dict[str, str]) -> None:
    text = manage(["export"], first_database)
    assert "input_usd_per_million: 0.123456789\n" in text
    assert "output_usd_per_million: 100\n" in text
    assert "effective_from: 2026-11-01T12:34:56.789012Z\n" in text
