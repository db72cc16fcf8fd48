"""What `apply` refuses: by line and column, with a suggestion, all at once, and without telling secrets."""

import contextlib
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_site.configuration_file.applying import apply_text
from gateway_site.configuration_file.faults import ConfigurationFileError
from gateway_site.configuration_file.reading import read_entries
from gateway_site.configuration_file.yaml_tree import MOST_BYTES, MOST_DEPTH, read_tree
from routing.models import CatalogueModel
from teams.keys import generate_key
from tests.configuration_files import apply, counts, faults_of
from tests.factories import make_backend, make_model, make_team, unique
from tests.people import make_admin

DIGEST = "v1-unknown-" + "a" * 64

# The file, and its faults; FIELD stands for an otherwise good department with one more line at 4:5.
FIELD = "departments:\n  - slug: fault-a\n    name: A\n    {}\n"
READING: list[tuple[str, list[str]]] = [
    ("teems: []", ["1:1: there is no section teems; did you mean teams?"]),
    ("quotas: []", ["1:1: there is no section quotas"]),
    ("teams: []\nteams: []", ["2:1: teams is there twice, first in line 1"]),
    ("version: 2", ["1:10: the version of this format is 1"]),
    ("version: [1]", ["1:10: the version of this format is 1"]),
    ("- a", ["1:1: the file must be a table of sections"]),
    ("text", ["1:1: the file must be a table of sections"]),
    ("teams: {a: b}", ["1:8: teams must be a list: each team begins with a hyphen"]),
    ("teams: a", ["1:8: teams must be a list: each team begins with a hyphen"]),
    ("teams: [a]", ["1:9: each team must be a table of fields"]),
    ("teams: [[a]]", ["1:9: each team must be a table of fields"]),
    ("departments: [{}]", ["1:15: a department needs slug"]),
    ("members: [{user: a}]", ["1:11: a member needs role"]),
    ("applications: [{name: A}]", ["1:16: an application needs team and slug"]),
    (FIELD.format("nam: B"), ["4:5: there is no field of a department nam; did you mean name?"]),
    (FIELD.format("xyz: B"), ["4:5: there is no field of a department xyz"]),
    (FIELD.format("name: B"), ["4:5: name is there twice, first in line 3"]),
    (FIELD.format("cost_centre: [1]"), ["4:18: cost_centre: text is expected here"]),
    (FIELD.format("cost_centre:"), ['4:17: cost_centre must not be empty; write "" for an empty text']),
    (FIELD.format("cost_centre: ~"), ['4:18: cost_centre must not be empty; write "" for an empty text']),
    (
        FIELD.format('cost_centre: "a\\nb"'),
        ["4:18: cost_centre: control characters and line breaks are not allowed here"],
    ),
    (
        FIELD.format('cost_centre: "a\\0b"'),
        ["4:18: cost_centre: control characters and line breaks are not allowed here"],
    ),
    (FIELD.format("state: present"), ["4:12: state can only be absent; leave it out otherwise"]),
    (FIELD.format("name: *x"), ["4:11: references (*name) are not allowed; repeat the value"]),
    (FIELD.format("cost_centre: &x a"), ["4:18: anchors (&x) are not allowed"]),
    (FIELD.format("cost_centre: !!python/name:os.system a"), ["4:18: tags"]),
    (FIELD.format("cost_centre: !!str a"), ["4:18: tags"]),
    (FIELD.format("<<: {name: B}"), ["4:5: there is no field of a department <<"]),
    (FIELD.format("[a]: B"), ["4:5: a name must be text"]),
    (FIELD.format("cost_centre: ${NOT_GIVEN}"), ["4:18: the variable NOT_GIVEN is not given"]),
    ("departments: []\n---\nteams: []", ["2:1: a second document begins; one is allowed"]),
    ("teams: [", ["2:1: this is not YAML"]),
    ("teams:\n\t- a", ["2:1: this is not YAML"]),
    ("teams: \x07", ["1:8: this is not YAML: a character that is not allowed"]),
    ("teams: [{slug: a, is_active: yes}]", ["1:30: is_active: true or false is expected here"]),
    ("teams: [{slug: a, is_active: 1}]", ["1:30: is_active: true or false is expected here"]),
    (
        "routes: [{model: m, backend: b, priority: -1}]",
        ["1:43: priority: a whole number from 0 to 999999999 is expected here"],
    ),
    (
        "routes: [{model: m, backend: b, priority: 1.5}]",
        ["1:43: priority: a whole number from 0 to 999999999 is expected here"],
    ),
    ("members: [{user: a, role: owner}]", ["1:27: role: owner is not one of platform_admin"]),
    ("members: [{user: a, role: team_ovner}]", ["did you mean team_owner?"]),
    ("backends: [{name: b, provider: opanai}]", ["did you mean openai?"]),
    ("models: [{name: m, aliases: a}]", ["1:29: aliases: a list such as [a, b] is expected here"]),
    ("models: [{name: m, aliases: [a, b, a]}]", ["1:36: aliases: a is there twice"]),
    ("models: [{name: m, aliases: [{a: b}]}]", ["1:30: aliases: text is expected here"]),
    ("prices: [{backend: b, effective_from: soon}]", ["1:39: effective_from: a date or moment such as"]),
    (
        "prices: [{backend: b, effective_from: 2026-13-01}]",
        ["1:39: effective_from: a date or moment such as"],
    ),
    (
        "prices: [{backend: b, effective_from: '2026-11-01T00:00:00'}]",
        ["1:39: effective_from: the moment needs its time zone"],
    ),
    *(
        (
            f"prices: [{{backend: b, effective_from: 2026-11-01, input_usd_per_million: {price}}}]",
            ["input_usd_per_million: a number such as 0.15"],
        )
        for price in ("-1", "1e3", "0.0000000001", ".5", "'1,5'", "NaN", "1_000", "٣")
    ),
    ("keys: [{team: t, name: k}]", ["1:8: a key needs its secret or its digest, and not both"]),
    (
        f"keys: [{{team: t, name: k, secret: x, digest: {DIGEST}}}]",
        ["1:8: a key needs its secret or its digest, and not both"],
    ),
    ("keys: [{team: t, name: k, secret: not-a-key}]", ["1:8: secret: this is not a well-formed key"]),
    ("keys: [{team: t, name: k, digest: abc}]", ["1:8: digest: this is not a digest as an export writes it"]),
    (f"keys: [{{digest: {DIGEST}, state: absent}}]", ["a key is not removed, for the ledger names it"]),
    (
        f"keys: [{{digest: {DIGEST}, hint: sk-gw_whole}}]",
        ["hint: a hint such as sk-gw_...AbC1 is expected here"],
    ),
    (f"keys: [{{digest: {DIGEST}, scopes: [chats]}}]", ["chats is not one of chat", "did you mean chat?"]),
    (
        f"keys: [{{digest: {DIGEST}, ip_ranges: [10.0.0.1/8]}}]",
        ["ip_ranges: '10.0.0.1/8' has bits of hosts set"],
    ),
    (f"keys: [{{digest: {DIGEST}, ip_ranges: [here]}}]", ["ip_ranges: 'here' is not an address range"]),
    (
        f"keys: [{{digest: {DIGEST}}}, {{digest: {DIGEST}}}]",
        ["the key without a name is there twice, first in line 1"],
    ),
    ("people: [{username: a, state: absent}]", ["a person is not removed, for the trail names them"]),
    (
        "departments:\n- {slug: a, name: A}\n- {slug: b, name: B}\n- {slug: a, name: C}",
        ["4:3: the department a is there twice, first in line 2"],
    ),
]


@pytest.mark.parametrize(("text", "faults"), READING)
def test_the_file_itself_is_wrong(text: str, faults: list[str]) -> None:
    found = faults_of(text)
    assert len(found) == 1
    for fault in faults:
        assert fault in found[0]


def test_all_faults_are_told_in_the_order_of_the_file() -> None:
    text = "teems: []\ndepartments:\n  - nmae: x\n    slug: [a]\nteams:\n  - {slug: a, is_active: maybe}\n"
    assert [fault.partition(": ")[0] for fault in faults_of(text)] == ["1:1", "3:5", "4:11", "6:26"]


def test_faults_against_the_database_are_told_at_once_too() -> None:
    team = make_team()
    text = f"""\
departments:
  - slug: UPPER
    name: x
  - slug: {unique("d")}
    name: ""
teams:
  - slug: {unique("t")}
    department: {team.department.slug}
    name: {"n" * 300}
backends:
  - name: {unique("b")}
    base_url: http://169.254.169.254/latest
    upstream_model: m
"""
    found = faults_of(text)
    assert [fault.partition(": ")[0] for fault in found] == ["2:5", "5:5", "9:5", "12:5"]
    assert "Use 1 to 63 lower-case letters" in found[0]


class TestReferences:
    @pytest.mark.parametrize(
        ("section", "entry", "field"),
        [
            ("teams", {"slug": "a", "name": "A", "department": "{}"}, "department"),
            ("applications", {"team": "{}", "slug": "a", "name": "A"}, "team"),
            ("members", {"user": "a", "role": "team_owner", "team": "{}"}, "team"),
            ("members", {"user": "a", "role": "department_manager", "department": "{}"}, "department"),
            ("models", {"name": "m", "granted_teams": ["{}"]}, "granted_teams"),
            ("routes", {"model": "{}", "backend": "{}"}, "model"),
            ("prices", {"backend": "{}", "effective_from": "2026-11-01"}, "backend"),
            ("keys", {"team": "{}", "name": "k", "digest": DIGEST}, "team"),
        ],
    )
    def test_a_name_that_leads_nowhere_is_refused_with_a_suggestion(
        self, section: str, entry: dict[str, Any], field: str
    ) -> None:
        known = {"team": make_team().slug, "backend": make_backend("https://a.example/v1").name}
        known |= {"model": make_model().name, "department": make_team().department.slug}
        known["granted_teams"] = known["team"]
        wrong = known[field][:-1] + "x"
        filled = {
            name: wrong if value == "{}" else [wrong] if value == ["{}"] else value
            for name, value in entry.items()
        }
        found = [
            fault for fault in faults_of({section: [filled]}) if f"{field}: there is no {wrong}" in fault
        ]
        assert len(found) == 1
        assert "did you mean" in found[0]

    def test_what_the_file_itself_makes_may_be_named(self) -> None:
        department, team = unique("d"), unique("t")
        document = {
            "teams": [{"slug": team, "name": "T", "department": department}],
            "departments": [{"slug": department, "name": "D"}],
        }
        assert apply(document) == counts(added=2)

    def test_what_the_file_removes_may_not(self) -> None:
        team = make_team()
        (fault,) = faults_of(
            {
                "departments": [{"slug": team.department.slug, "state": "absent"}],
                "teams": [{"slug": team.slug, "department": team.department.slug}],
            }
        )
        assert "department: " in fault
        assert "is removed by this file in line 2" in fault

    def test_the_consequences_of_a_fault_are_not_told_as_faults(self) -> None:
        document = {
            "departments": [{"slug": "Not-A-Slug", "name": "D"}],
            "teams": [{"slug": unique("t"), "name": "T", "department": "Not-A-Slug"}],
            "applications": [{"team": make_team().slug, "slug": "Neither", "name": "A"}],
        }
        assert len(faults_of(document)) == 2

    def test_each_faulty_application_of_a_team_is_told(self) -> None:
        team = make_team().slug
        entries = [{"team": team, "slug": slug, "name": "A"} for slug in ("A", "B", "good", "C")]
        assert len(faults_of({"applications": entries})) == 3


class TestKinds:
    @pytest.mark.parametrize(
        ("role", "scope", "needed"),
        [
            ("platform_admin", ["team"], "neither department nor team"),
            ("finance", ["department"], "neither department nor team"),
            ("team_owner", [], "a team and nothing else"),
            ("viewer", ["department"], "a team and nothing else"),
            ("team_member", ["department", "team"], "a team and nothing else"),
            ("department_manager", ["team"], "a department and nothing else"),
        ],
    )
    def test_a_scope_that_does_not_fit_the_role(self, role: str, scope: list[str], needed: str) -> None:
        team = make_team()
        named = {"team": team.slug, "department": team.department.slug}
        entry = {"user": unique("p"), "role": role, **{name: named[name] for name in scope}}
        (fault,) = faults_of({"members": [entry]})
        assert f"the role {role} needs {needed}" in fault

    @pytest.mark.parametrize("field", ["name", "department"])
    def test_a_new_object_needs_its_fields(self, field: str) -> None:
        entry = {"slug": unique("t"), "name": "T", "department": make_team().department.slug}
        del entry[field]
        (fault,) = faults_of({"teams": [entry]})
        assert f"the team {entry['slug']} is new, and needs {field}" in fault

    @pytest.mark.parametrize(
        ("fields", "fault"),
        [
            ({"base_url": "http://10.0.0.1/v1"}, "base_url: Plain http needs 10.0.0.1:80"),
            ({"base_url": "https://user:word@a.example"}, "base_url: "),
            ({"base_url": "nonsense", "credential": "x"}, "base_url: "),
            ({"credential_reference": "env:PATH"}, "credential_reference: Write env:GATEWAY_CREDENTIAL_"),
            ({"credential_reference": "env:GATEWAY_CREDENTIAL_A", "credential": "x"}, "not both"),
            ({"credential": ""}, "printable ASCII characters are needed"),
            ({"credential": "schlüssel"}, "printable ASCII characters are needed"),
            ({"connect_timeout_s": 0}, "connect_timeout_s: "),
            ({"list_price_provider": "nobody"}, "list_price_provider: The list has no price of nobody/m"),
            ({"list_price_model": "m"}, "A model of the list prices needs its provider"),
            ({"name": "a b"}, "name: Use letters"),
        ],
    )
    def test_a_backend_that_cannot_be(self, fields: dict[str, Any], fault: str) -> None:
        entry = {"name": unique("b"), "base_url": "https://a.example/v1", "upstream_model": "m", **fields}
        assert any(fault in found for found in faults_of({"backends": [entry]}))

    def test_a_password_that_is_too_weak_is_refused_without_telling_it(self) -> None:
        (fault,) = faults_of({"people": [{"username": unique("p"), "password": "qwerty"}]})[:1]
        assert "password: " in fault
        assert "qwerty" not in fault

    def test_a_price_in_force_is_neither_changed_nor_removed(self) -> None:
        backend = make_backend("https://a.example/v1", prices={})
        entry = {"backend": backend.name, "effective_from": "2026-11-01"}
        entry |= {"input_usd_per_million": "1", "output_usd_per_million": "2"}
        apply({"prices": [entry]})
        assert apply({"prices": [entry]}) == counts(unchanged=1)
        (fault,) = faults_of({"prices": [{**entry, "output_usd_per_million": "3"}]})
        assert "this price has been in force at 2.000000000, not 3; add one with a later" in fault
        (fault,) = faults_of({"prices": [{**entry, "state": "absent"}]})
        assert "has been in force and is not removed" in fault

    def test_an_alias_that_is_a_models_name(self) -> None:
        taken = make_model().name
        (fault,) = faults_of({"models": [{"name": unique("m"), "aliases": [taken]}]})
        assert f"aliases: {taken}: {taken} is a model already" in fault
        (fault,) = faults_of({"models": [{"name": taken, "aliases": [taken]}]})
        assert "the model's own name is not an alias" in fault

    def test_one_alias_for_two_models(self) -> None:
        alias = unique("alias")
        document = {"models": [{"name": unique("m"), "aliases": [alias]} for _ in range(2)]}
        (fault,) = faults_of(document)
        assert f"aliases: {alias}: " in fault
        assert not CatalogueModel.objects.filter(aliases__name=alias).exists()

    def test_a_key_stays_with_its_team(self) -> None:
        entry = {"team": make_team().slug, "name": "K", "secret": generate_key()}
        apply({"keys": [entry]})
        (fault,) = faults_of({"keys": [{**entry, "team": make_team().slug}]})
        assert f"this is a key of the team {entry['team']}, and stays so" in fault

    def test_a_keys_application_is_one_of_its_team(self) -> None:
        entry = {"team": make_team().slug, "name": "K", "secret": generate_key(), "application": "none"}
        (fault,) = faults_of({"keys": [entry]})
        assert "has no application none" in fault

    def test_one_key_under_two_entries(self) -> None:
        entry = {"team": make_team().slug, "name": "K", "secret": generate_key()}
        (fault,) = faults_of({"keys": [entry, {**entry, "name": "L"}]})
        assert "is there twice" in fault
        assert entry["secret"] not in fault

    def test_a_key_made_under_an_unknown_pepper_is_refused(self) -> None:
        for digest in (DIGEST, "v1-00000000-" + "a" * 64, "v7-00000000-" + "a" * 64):
            entry = {"team": make_team().slug, "name": "K", "digest": digest, "hint": "sk-gw_...aaaa"}
            (fault,) = faults_of({"keys": [entry]})
            assert "GATEWAY_KEY_PEPPERS does not have" in fault


class TestWhatIsToldOfSecrets:
    @pytest.mark.parametrize(
        "text",
        [
            "keys: [{{team: t, name: k, scopes: [{key}]}}]",
            "keys: [{{team: t, name: k, {key}: x}}]",
            "{key}: []",
            "members: [{{user: a, role: {key}}}]",
            "backends: [{{name: b, provider: {key}}}]",
            "teams: [{{slug: a, is_active: {key}}}]",
            "prices: [{{backend: b, effective_from: {key}}}]",
            "version: {key}",
        ],
    )
    def test_a_key_in_the_wrong_place_is_not_repeated(self, text: str) -> None:
        for secret in (key := generate_key(), key[6:]):
            with pytest.raises(ConfigurationFileError) as refused:
                apply_text(text.format(key=secret), actor="tests")
            assert secret[:12] not in str(refused.value)


class TestTheLastPlatformAdmin:
    @pytest.mark.parametrize("dry_run", [True, False])
    @pytest.mark.parametrize("way", ["closed", "role"])
    def test_stays_and_a_dry_run_knows_it(self, dry_run: bool, way: str) -> None:
        with transaction.atomic():
            User.objects.update(is_active=False, is_superuser=False)
            last = make_admin()
            text = {
                "closed": f"people: [{{username: {last.username}, is_active: false}}]",
                "role": f"members: [{{user: {last.username}, role: platform_admin, state: absent}}]",
            }[way]
            with pytest.raises(ConfigurationFileError, match=r"1:.*last platform admin"):
                apply_text(text, actor="tests", dry_run=dry_run)
            transaction.set_rollback(True)


def test_names_that_differ_in_case_are_one() -> None:
    person = make_admin().username
    other = person.upper()
    assert faults_of({"people": [{"username": other}]}) != []
    assert faults_of({"members": [{"user": other, "role": "finance"}]}) != []


@pytest.mark.parametrize(
    "moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2027-W01-1", "20270101"]
)
def test_a_moment_beyond_all_calendars_is_a_fault(moment: str) -> None:
    with pytest.raises(ConfigurationFileError, match="effective_from: a date or moment such as"):
        apply_text(f"prices: [{{backend: b, effective_from: '{moment}'}}]", actor="tests")


class TestBounds:
    def test_a_file_that_is_too_large_is_not_read(self) -> None:
        with pytest.raises(ConfigurationFileError, match="larger than 32 MiB"):
            read_tree("#" * (MOST_BYTES + 1), {})

    @pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
    def test_depth_is_bounded_without_recursion(self, opening: str) -> None:
        with pytest.raises(
            ConfigurationFileError, match=f"nested deeper than {MOST_DEPTH} levels|maximum nesting depth"
        ):
            read_tree(f"teams: {'' if opening != '- ' else chr(10)}" + opening * 100_000, {})

    def test_a_bomb_of_references_does_not_go_off(self) -> None:
        text = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"
        with pytest.raises(ConfigurationFileError, match=r"2:8: references"):
            read_tree(text, {})

    @given(st.text(max_size=200) | st.text(alphabet="[]{}-:,#&*!|>'\"%@` \n\tab?<~", max_size=60))
    @settings(max_examples=500, deadline=None)
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        with contextlib.suppress(ConfigurationFileError):
            read_entries(text, {})


class TestSecrets:
    @pytest.mark.parametrize(
        "text",
        [
            "backends: [{name: b, credential: ${S}, provider: ${S}, connect_timeout_s: ${S}}]",
            "people: [{username: p, password: ${S}, is_active: ${S}}]",
            "keys: [{team: t, name: k, secret: ${S}}]",
            "keys: [{team: t, name: k, secret: ${S}, digest: ${S}}]",
            "members: [{user: a, role: ${S}}]",
            "prices: [{backend: b, effective_from: ${S}}]",
            "teams: [{slug: t, state: ${S}}]",
            "version: ${S}",
            "keys: ${S}",
        ],
    )
    def test_a_variables_value_is_in_no_fault(self, text: str) -> None:
        secret = "hush-hush-this-is-a-secret"
        found = faults_of(text, S=secret)
        assert found
        assert secret not in "\n".join(found)

    def test_a_secret_in_the_wrong_place_is_not_told(self) -> None:
        secret = "sk-provider-0123456789"
        text = f"backends:\n  - name: b\n    credential: [{secret}]\n    password: {secret}\n"
        assert secret not in "\n".join(faults_of(text))
