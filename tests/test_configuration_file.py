"""`apply`: what a file makes, changes and removes; each once, with events, without secrets."""

import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, transaction
from django.utils import timezone

from audit.models import AdminEvent
from billing.models import PriceEntry
from outbound.credentials import decrypt_credential
from routing.models import Backend, CatalogueModel, Grant, ModelAlias, Route
from teams.key_holder import find_key_holder
from teams.keys import Peppers, generate_key, hint_of
from teams.models import ApiKey, Application, Department, Member, Team
from teams.services import revoke_key, rotate_key
from tests.configuration_files import ACTOR, apply, counts, dump, faults_of, tell
from tests.factories import make_backend, make_model, make_team, unique

URL = "https://backend.example/v1"
Document = dict[str, list[dict[str, Any]]]


def department(**fields: Any) -> Document:
    return {"departments": [{"slug": unique("department"), "name": "A department", **fields}]}


def backend(**fields: Any) -> dict[str, Any]:
    return {"name": unique("backend"), "base_url": URL, "upstream_model": "m", **fields}


def events_of(target: Any) -> list[AdminEvent]:
    label = target._meta.label_lower
    found = AdminEvent.objects.filter(object_type=label, object_id=str(target.pk), actor=ACTOR)
    return list(found.order_by("id"))


@pytest.fixture
def company() -> Document:
    """One of everything."""
    names = {
        word: unique(word) for word in ("dept", "team", "person", "manager", "backend", "model", "alias")
    }
    return {
        "departments": [
            {"slug": names["dept"], "name": "D", "cost_centre": "0815", "time_zone": "Europe/Berlin"}
        ],
        "teams": [{"slug": names["team"], "department": names["dept"], "name": "T"}],
        "applications": [{"team": names["team"], "slug": "app", "name": "A"}],
        "people": [
            {"username": names["person"], "email": "p@example.com", "password": "a long enough password"}
        ],
        "members": [
            {"user": names["person"], "role": "team_owner", "team": names["team"]},
            {"user": names["manager"], "role": "department_manager", "department": names["dept"]},
        ],
        "backends": [{**backend(), "name": names["backend"], "credential": "a-credential-of-a-backend"}],
        "models": [{"name": names["model"], "aliases": [names["alias"]], "granted_teams": [names["team"]]}],
        "routes": [{"model": names["model"], "backend": names["backend"], "priority": 3}],
        "prices": [
            {
                "backend": names["backend"],
                "effective_from": "2026-11-01",
                "input_usd_per_million": "0.15",
                "output_usd_per_million": "0.6",
            }
        ],
        "keys": [
            {
                "team": names["team"],
                "application": "app",
                "name": "K",
                "secret": generate_key(),
                "scopes": ["chat", "models"],
                "allowed_models": [names["model"]],
                "ip_ranges": ["192.0.2.1"],
                "expires_at": "never",
            }
        ],
    }


class TestMaking:
    def test_a_file_makes_one_of_everything(self, company: Document) -> None:
        assert apply(company) == counts(added=11)
        team = Team.objects.get(slug=company["teams"][0]["slug"])
        assert (team.department.cost_centre, team.department.time_zone) == ("0815", "Europe/Berlin")
        assert {member.role for member in team.members.all()} == {"team_owner"}
        person = User.objects.get(username=company["people"][0]["username"])
        assert person.check_password("a long enough password")
        row = Backend.objects.get(name=company["backends"][0]["name"])
        assert decrypt_credential(bytes(row.credential_encrypted or b""), URL) == "a-credential-of-a-backend"
        model = CatalogueModel.objects.get(name=company["models"][0]["name"])
        assert [alias.name for alias in model.aliases.all()] == company["models"][0]["aliases"]
        assert [grant.team for grant in model.grants.all()] == [team]
        assert [route.priority for route in model.routes.all()] == [3]
        price = PriceEntry.objects.get(backend=row, cached_input_usd_per_million=None)
        assert price.input_usd_per_million == Decimal("0.15")
        assert price.effective_from == datetime(2026, 11, 1, tzinfo=UTC)

    def test_a_key_given_by_value_is_stored_as_digest_only(self, company: Document) -> None:
        apply(company)
        secret = company["keys"][0]["secret"]
        holder = find_key_holder(Peppers.parse(settings.GATEWAY_KEY_PEPPERS).digests(secret))
        assert holder is not None
        key = ApiKey.objects.get(pk=holder.key_id)
        assert (key.hint, key.expires_at, key.scopes) == (hint_of(secret), None, ["chat", "models"])
        assert key.ip_ranges == ["192.0.2.1/32"]
        assert secret.encode() not in bytes(key.digest)

    def test_applying_again_changes_nothing(self, company: Document) -> None:
        apply(company)
        events = AdminEvent.objects.count()
        versions = [row.credential_encrypted for row in Backend.objects.order_by("pk")]
        assert apply(company) == counts(unchanged=11)
        assert AdminEvent.objects.count() == events
        assert [row.credential_encrypted for row in Backend.objects.order_by("pk")] == versions

    def test_each_object_has_its_event_and_no_event_a_secret(self, company: Document) -> None:
        before = AdminEvent.objects.count()
        apply(company)
        events = AdminEvent.objects.filter(actor=ACTOR).order_by("-id")[: AdminEvent.objects.count() - before]
        # 11 entries, the manager's account, the alias and the grant
        assert len(events) == 14
        told = str([(event.before, event.after) for event in events])
        for secret in ("a long enough password", "a-credential-of-a-backend", company["keys"][0]["secret"]):
            assert secret not in told

    def test_a_member_who_is_unknown_is_made_without_a_password(self, company: Document) -> None:
        manager = company["members"][1]["user"]
        assert f"Note: {manager} is a new person without a password." in tell(company)
        assert not User.objects.get(username=manager).has_usable_password()

    def test_a_new_key_without_an_end_ends_after_90_days(self) -> None:
        team, secret = make_team(), generate_key()
        entry = {"team": team.slug, "name": "K", "secret": secret}
        assert apply({"keys": [entry]}) == counts(added=1)
        expires_at = ApiKey.objects.get(team=team).expires_at
        assert expires_at is not None
        assert timedelta(days=89) < expires_at - timezone.now() <= timedelta(days=90)
        assert apply({"keys": [entry]}) == counts(unchanged=1)

    def test_an_empty_file_and_an_empty_section_do_nothing(self) -> None:
        for text in ("", "# only a comment\n", "version: 1\n", "teams:\nkeys: []\n", "{}"):
            assert apply(text) == counts()


class TestChanging:
    CASES: tuple[tuple[str, str, Any, Any], ...] = (
        ("departments", "name", "Another name", "Another name"),
        ("departments", "cost_centre", "", ""),
        ("departments", "time_zone", "UTC", "UTC"),
        ("teams", "is_active", False, False),
        ("teams", "counters_away", "allow", "allow"),
        ("teams", "reserve", "typical", "typical"),
        ("applications", "name", "B", "B"),
        ("people", "email", "q@example.com", "q@example.com"),
        ("people", "is_active", False, False),
        ("backends", "upstream_model", "n", "n"),
        ("backends", "connect_timeout_s", 9, 9),
        ("models", "description", "Text: with # signs", "Text: with # signs"),
        ("routes", "priority", 9, 9),
        ("keys", "name", "L", "L"),
        ("keys", "scopes", [], []),
        ("keys", "allowed_models", [], []),
        ("keys", "ip_ranges", ["10.0.0.0/8", "2001:db8::/32"], ["10.0.0.0/8", "2001:db8::/32"]),
        ("keys", "application", None, None),
        ("keys", "is_paused", True, True),
        ("keys", "expires_at", "2030-01-01T12:00:00+02:00", datetime(2030, 1, 1, 10, tzinfo=UTC)),
    )
    ROWS = {
        "departments": (Department, "slug"),
        "teams": (Team, "slug"),
        "people": (User, "username"),
        "backends": (Backend, "name"),
        "models": (CatalogueModel, "name"),
    }

    @pytest.mark.parametrize(("section", "field", "value", "stored"), CASES)
    def test_one_field_is_changed_and_told(
        self, company: Document, section: str, field: str, value: Any, stored: Any
    ) -> None:
        apply(company)
        company[section][0][field] = value
        told = tell(company)
        assert told.count(" -> ") == 1
        assert f"      {field}: " in told
        assert told.endswith(counts(changed=1, unchanged=10))
        assert self.value(company, section, field) == stored
        assert apply(company) == counts(unchanged=11)

    def value(self, company: Document, section: str, field: str) -> Any:
        if section in self.ROWS:
            model, name = self.ROWS[section]
            return getattr(model._default_manager.get(**{name: company[section][0][name]}), field)
        team = company["teams"][0]["slug"]
        if section == "applications":
            return getattr(Application.objects.get(team__slug=team), field)
        if section == "routes":
            return Route.objects.get(model__name=company["models"][0]["name"]).priority
        key = ApiKey.objects.get(team__slug=team)
        return key.paused_at is not None if field == "is_paused" else getattr(key, field)

    def test_what_is_not_given_stays(self) -> None:
        document = department(cost_centre="4711")
        apply(document)
        slug = document["departments"][0]["slug"]
        assert apply({"departments": [{"slug": slug, "name": "New"}]}) == counts(changed=1)
        assert Department.objects.get(slug=slug).cost_centre == "4711"

    def test_a_change_has_an_event_with_the_changed_fields_only(self) -> None:
        document = department()
        apply(document)
        document["departments"][0]["name"] = "New"
        apply(document)
        row = Department.objects.get(slug=document["departments"][0]["slug"])
        created, changed = events_of(row)
        assert (created.action, changed.action) == ("department.create", "department.change")
        assert (changed.before, changed.after) == ({"name": "A department"}, {"name": "New"})

    def test_a_list_is_the_whole_list(self, company: Document) -> None:
        apply(company)
        model, other = company["models"][0], make_team()
        model.update(aliases=[unique("alias")], granted_teams=[other.slug])
        apply(company)
        row = CatalogueModel.objects.get(name=model["name"])
        assert [alias.name for alias in row.aliases.all()] == model["aliases"]
        assert [grant.team for grant in row.grants.all()] == [other]
        model.update(aliases=[], granted_teams=[])
        assert apply(company) == counts(changed=1, unchanged=10)
        assert not row.aliases.exists()
        assert not row.grants.exists()

    def test_the_order_in_a_list_means_nothing(self, company: Document) -> None:
        company["keys"][0]["scopes"] = ["models", "chat"]
        apply(company)
        company["keys"][0]["scopes"] = ["chat", "models"]
        assert apply(company) == counts(unchanged=11)

    def test_an_alias_moves_from_one_model_to_another_in_one_file(self) -> None:
        alias, first, second = unique("alias"), unique("m"), unique("m")
        apply({"models": [{"name": first, "aliases": [alias]}, {"name": second}]})
        for names in ((second, first), (first, second)):
            document = {"models": [{"name": names[0], "aliases": [alias]}, {"name": names[1], "aliases": []}]}
            apply(document)
            assert ModelAlias.objects.get(name=alias).model.name == names[0]

    def test_an_alias_becomes_a_model_and_a_model_an_alias(self) -> None:
        name, other = unique("m"), unique("m")
        apply({"models": [{"name": other, "aliases": [name]}]})
        assert apply({"models": [{"name": name}, {"name": other, "aliases": []}]}) == counts(1, 1)
        document = {"models": [{"name": other, "aliases": [name]}, {"name": name, "state": "absent"}]}
        assert apply(document) == counts(changed=1, removed=1)
        assert ModelAlias.objects.get(name=name).model.name == other

    def test_a_password_is_replaced_only_by_another(self) -> None:
        person = {"username": unique("person"), "password": "the first long password"}
        assert "password: set" in tell({"people": [person]})
        assert apply({"people": [person]}) == counts(unchanged=1)
        person["password"] = "the second long password"
        told = tell({"people": [person]})
        assert "password: set -> replaced" in told
        assert "second" not in told
        assert User.objects.get(username=person["username"]).check_password(person["password"])

    def test_a_key_is_paused_resumed_and_ended(self, company: Document) -> None:
        apply(company)
        entry = company["keys"][0]
        key = ApiKey.objects.get(team__slug=entry["team"])
        for is_paused in (True, False):
            entry["is_paused"] = is_paused
            assert apply(company) == counts(changed=1, unchanged=10)
            key.refresh_from_db()
            assert (key.paused_at is not None) is is_paused
        entry["is_revoked"] = True
        assert apply(company) == counts(changed=1, unchanged=10)
        key.refresh_from_db()
        assert key.revoked_at is not None
        assert apply(company) == counts(unchanged=11)
        assert [event.action for event in events_of(key)] == [
            "key.create",
            "key.pause",
            "key.resume",
            "key.revoke",
        ]

    def test_a_key_that_was_revoked_meanwhile_stays_revoked_and_is_told(self, company: Document) -> None:
        apply(company)
        key = ApiKey.objects.get(team__slug=company["teams"][0]["slug"])
        revoke_key(key, actor="tests")
        company["keys"][0].update(name="New name", is_paused=False)
        told = tell(company)
        assert "is revoked and stays so" in told
        assert told.endswith(counts(unchanged=11))
        company["keys"][0]["is_revoked"] = False
        (fault,) = faults_of(company)
        assert "this key is revoked, and that is final" in fault

    def test_an_expired_key_is_left_alone_and_told(self, company: Document) -> None:
        apply(company)
        created = timezone.now() - timedelta(days=2)
        ended = created + timedelta(days=1)
        keys = ApiKey.objects.filter(team__slug=company["teams"][0]["slug"])
        keys.update(created_at=created, expires_at=ended)
        company["keys"][0]["name"] = "New name"
        told = tell(company)
        assert "is expired and stays so" in told
        assert told.endswith(counts(unchanged=11))
        assert keys.get().expires_at == ended

    def test_a_file_does_not_undo_a_rotation(self, company: Document) -> None:
        apply(company)
        key = ApiKey.objects.get(team__slug=company["teams"][0]["slug"])
        rotate_key(key, actor="tests", overlap=timedelta(hours=1))
        told = tell(company)
        assert "was rotated, and ends as the rotation said" in told
        assert told.endswith(counts(unchanged=11))
        key.refresh_from_db()
        assert key.expires_at is not None


class TestCredentials:
    def stored(self, name: str) -> str | None:
        row = Backend.objects.get(name=name)
        if row.credential_encrypted is None:
            return None
        return decrypt_credential(bytes(row.credential_encrypted), row.base_url)

    def test_it_is_kept_unless_it_is_given(self) -> None:
        entry = backend(credential="first-secret")
        apply({"backends": [entry]})
        del entry["credential"]
        entry["upstream_model"] = "n"
        assert apply({"backends": [entry]}) == counts(changed=1)
        assert self.stored(entry["name"]) == "first-secret"

    def test_it_is_replaced_told_by_words_and_removed(self) -> None:
        entry = backend(credential="first-secret")
        apply({"backends": [entry]})
        entry["credential"] = "second-secret"
        told = tell({"backends": [entry]})
        assert "credential: set -> replaced" in told
        assert "secret" not in told
        assert self.stored(entry["name"]) == "second-secret"
        entry["credential"] = None
        assert "credential: set -> removed" in tell({"backends": [entry]})
        assert self.stored(entry["name"]) is None

    def test_a_reference_takes_its_place_and_back(self) -> None:
        entry = backend(credential="first-secret")
        apply({"backends": [entry]})
        del entry["credential"]
        entry["credential_reference"] = "env:GATEWAY_CREDENTIAL_TEST"
        assert "credential: set -> removed" in tell({"backends": [entry]})
        assert apply({"backends": [entry]}) == counts(unchanged=1)
        del entry["credential_reference"]
        entry["credential"] = "second-secret"
        assert 'credential_reference: "env:GATEWAY_CREDENTIAL_TEST" -> ""' in tell({"backends": [entry]})
        assert apply({"backends": [entry]}) == counts(unchanged=1)
        assert self.stored(entry["name"]) == "second-secret"

    def test_it_does_not_move_to_another_host(self) -> None:
        entry = backend(credential="first-secret")
        apply({"backends": [entry]})
        del entry["credential"]
        entry["base_url"] = "https://elsewhere.example/v1"
        (fault,) = faults_of({"backends": [entry]})
        assert "base_url: the address has changed" in fault
        entry["credential"] = "first-secret"
        assert apply({"backends": [entry]}) == counts(changed=1)
        assert self.stored(entry["name"]) == "first-secret"

    def test_another_path_of_the_host_keeps_it(self) -> None:
        entry = backend(credential="first-secret")
        apply({"backends": [entry]})
        del entry["credential"]
        entry["base_url"] = "https://backend.example/other/v1"
        assert apply({"backends": [entry]}) == counts(changed=1)
        assert self.stored(entry["name"]) == "first-secret"

    def test_a_new_backend_without_one_is_told(self) -> None:
        entry = backend()
        assert f"Note: the new backend {entry['name']} has no credential." in tell({"backends": [entry]})


class TestRemoving:
    def test_absent_removes_once(self, company: Document) -> None:
        apply(company)
        route = {**company["routes"][0], "state": "absent"}
        assert f"  - {route['model']} / {route['backend']}" in tell({"routes": [route]})
        assert apply({"routes": [route]}) == counts(unchanged=1)

    def test_what_goes_with_it_has_events(self, company: Document) -> None:
        apply(company)
        model = CatalogueModel.objects.get(name=company["models"][0]["name"])
        parts = [model, *model.aliases.all(), *model.grants.all(), *model.routes.all()]
        pks = {part: part.pk for part in parts}
        assert apply({"models": [{"name": model.name, "state": "absent"}]}) == counts(removed=1)
        for part in parts:
            part.pk = pks[part]
            assert events_of(part)[-1].action == f"{part._meta.model_name}.delete"
        assert not Grant.objects.filter(model_id=pks[model]).exists()

    def test_what_is_in_use_is_not_removed(self, company: Document) -> None:
        apply(company)
        slug = company["departments"][0]["slug"]
        (fault,) = faults_of({"departments": [{"slug": slug, "state": "absent"}]})
        assert "it is still used by 1 team" in fault

    def test_a_whole_branch_goes_in_one_file(self) -> None:
        slug, team = unique("department"), unique("team")
        document: Document = {
            "departments": [{"slug": slug, "name": "D"}],
            "teams": [{"slug": team, "department": slug, "name": "T"}],
            "applications": [{"team": team, "slug": "a", "name": "A"}],
        }
        apply(document)
        for section in document.values():
            section[0]["state"] = "absent"
        assert apply(document) == counts(removed=3)

    def test_a_team_moves_before_its_department_goes(self) -> None:
        old, new, team = unique("old"), unique("new"), unique("team")
        apply(
            {
                "departments": [{"slug": old, "name": "O"}],
                "teams": [{"slug": team, "department": old, "name": "T"}],
            }
        )
        document = {
            "departments": [{"slug": old, "state": "absent"}, {"slug": new, "name": "N"}],
            "teams": [{"slug": team, "department": new}],
        }
        assert apply(document) == counts(1, 1, 1)

    def test_a_coming_price_is_changed_and_removed(self) -> None:
        later = (timezone.now() + timedelta(days=30)).date().isoformat()
        price = {"backend": make_backend(URL, prices={}).name, "effective_from": later}
        price |= {"input_usd_per_million": "1", "output_usd_per_million": "1"}
        apply({"prices": [price]})
        price["input_usd_per_million"] = "2.5"
        assert "input_usd_per_million: 1 -> 2.5" in tell({"prices": [price]})
        assert apply({"prices": [{**price, "state": "absent"}]}) == counts(removed=1)

    def test_a_membership_ends_and_the_person_stays(self, company: Document) -> None:
        apply(company)
        member = {**company["members"][0], "state": "absent"}
        assert apply({"members": [member]}) == counts(removed=1)
        assert not Member.objects.filter(user__username=member["user"]).exists()
        assert User.objects.filter(username=member["user"]).exists()


class TestWholeOrNothing:
    def test_a_dry_run_tells_the_same_and_changes_nothing(self, company: Document) -> None:
        events = AdminEvent.objects.count()
        assert apply(company, dry_run=True) == counts(added=11)
        assert not Department.objects.filter(slug=company["departments"][0]["slug"]).exists()
        assert AdminEvent.objects.count() == events

    def test_one_fault_stops_everything(self, company: Document) -> None:
        company["departments"].append({"slug": unique("d"), "name": "D", "time_zone": "Mars/Olympus"})
        assert len(faults_of(company)) == 1
        assert not Department.objects.filter(slug=company["departments"][0]["slug"]).exists()

    def test_of_two_files_at_once_the_second_waits(self) -> None:
        document = department()
        results: list[str] = []

        def apply_elsewhere() -> None:
            results.append(apply(document))
            connection.close()

        thread = threading.Thread(target=apply_elsewhere)
        with transaction.atomic():
            assert apply(document) == counts(added=1)
            thread.start()
            thread.join(0.3)
            assert thread.is_alive(), "the second must wait for the first"
        thread.join(20)
        assert results == [counts(unchanged=1)]


class TestCommand:
    def run(self, *arguments: str) -> str:
        out = StringIO()
        call_command("apply", *arguments, stdout=out)
        return out.getvalue()

    def write(self, path: Path, document: Document) -> str:
        file = path / "file.yaml"
        file.write_text(dump(document))
        return str(file)

    def test_it_tells_the_difference_and_names_the_actor(self, tmp_path: Path) -> None:
        document = department(cost_centre="4711")
        slug = document["departments"][0]["slug"]
        file = self.write(tmp_path, document)
        dry = self.run(file, "--dry-run")
        assert dry.endswith("This was a dry run: nothing was changed.\n")
        told = self.run(file, "--actor", "ada")
        assert told == (
            f'departments\n  + {slug}\n      name: "A department"\n      cost_centre: "4711"\n{counts(1)}\n'
        )
        assert dry.startswith(told)
        row = Department.objects.get(slug=slug)
        assert (
            AdminEvent.objects.get(object_id=str(row.pk), action="department.create").actor == "apply (ada)"
        )

    def test_exit_code_says_whether_anything_differs(self, tmp_path: Path) -> None:
        file = self.write(tmp_path, department())
        for arguments in (("--dry-run",), ()):
            with pytest.raises(SystemExit) as ended:
                self.run(file, "--exit-code", *arguments)
            assert ended.value.code == 2
        self.run(file, "--exit-code")

    def test_faults_are_told_with_file_line_and_column(self, tmp_path: Path) -> None:
        file = tmp_path / "wrong.yaml"
        file.write_text("departments:\n  - slug: a\n    nmae: x\nteam: []\n")
        with pytest.raises(CommandError) as refused:
            self.run(str(file))
        assert str(refused.value).splitlines() == [
            f"{file}:3:5: there is no field of a department nmae; did you mean name?",
            f"{file}:4:1: there is no section team; did you mean teams?",
            "Nothing was changed: 2 faults.",
        ]
        assert refused.value.returncode == 1

    def test_variables_come_from_the_environment_under_their_prefix_only(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GATEWAY_APPLY_NAME", "A given name")
        document = department(name="${GATEWAY_APPLY_NAME}")
        self.run(self.write(tmp_path, document))
        assert Department.objects.get(slug=document["departments"][0]["slug"]).name == "A given name"
        document["departments"][0]["name"] = "${GATEWAY_SECRET_KEY}"
        with pytest.raises(CommandError, match="the variable GATEWAY_SECRET_KEY is not given"):
            self.run(self.write(tmp_path, document))

    @pytest.mark.parametrize(
        ("content", "refusal"), [(None, "cannot be read"), (b"\xff\xfe\x00", "is not UTF-8 text")]
    )
    def test_an_unreadable_file_is_refused(self, tmp_path: Path, content: bytes | None, refusal: str) -> None:
        file = tmp_path / "file.yaml"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(CommandError, match=refusal):
            self.run(str(file))

    def test_a_model_may_be_made_beside_existing_ones(self, tmp_path: Path) -> None:
        existing, model = make_model(), {"name": unique("model")}
        self.run(self.write(tmp_path, {"models": [model]}))
        assert CatalogueModel.objects.filter(name__in=[existing.name, model["name"]]).count() == 2
