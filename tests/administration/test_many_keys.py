"""The key pages with a hundred thousand keys: each of their answers takes less than 300 ms."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection

from teams.models import ApiKey, Application, Department, Team
from tests.administration.desk import Desk, body, page
from tests.factories import unique

KEYS, TEAMS = 100_000, 2_000
BOUND_S = 0.3

_INSERT = """
WITH new_teams AS (
    INSERT INTO teams_team (department_id, slug, name, is_active, created_at)
    SELECT %(department)s, %(marker)s || '-' || n, 'Team ' || n, true, now() FROM generate_series(1, %(teams)s) n
    RETURNING id, slug
), new_applications AS (
    INSERT INTO teams_application (team_id, slug, name, created_at)
    SELECT id, 'app-' || slug, 'Application of ' || slug, now() FROM new_teams RETURNING id, team_id
), owners AS (
    SELECT id AS application_id, team_id, row_number() OVER (ORDER BY id) - 1 AS number FROM new_applications
)
INSERT INTO teams_apikey (
    team_id, application_id, name, digest, pepper_version, hint, created_by, created_at, expires_at, revoked_at,
    paused_at
)
SELECT team_id, application_id, 'Key ' || n || ' of ' || %(marker)s, sha256((%(marker)s || n)::bytea), 1,
    'sk-gw_...' || chr(65 + n / 4096) || lpad(to_hex(n %% 4096), 3, '0'), 'tests', now() - interval '100 days',
    CASE WHEN n %% 7 > 0 THEN now() + (n %% 200 - 50) * interval '1 day' END,
    CASE WHEN n %% 11 = 0 THEN now() END,
    CASE WHEN n %% 13 = 0 THEN now() END
FROM generate_series(1, %(keys)s) n JOIN owners ON number = n %% %(teams)s
"""


pytestmark = pytest.mark.slow  # it makes a hundred thousand keys first


@pytest.fixture(scope="module")
def marker() -> Iterator[str]:
    """A word in every name of the many keys and their owners. The planner has no statistics of them: it may
    not have in production either, right after an import."""
    marker = unique("many")
    department = Department.objects.create(slug=marker, name="A department")
    values: dict[str, Any] = {"department": department.pk, "marker": marker, "teams": TEAMS, "keys": KEYS}
    with connection.cursor() as cursor:
        cursor.execute(_INSERT, values)
    yield marker
    ApiKey.objects.filter(team__department=department)._raw_delete("default")
    Application.objects.filter(team__department=department)._raw_delete("default")
    Team.objects.filter(department=department)._raw_delete("default")


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", "1000 API keys"),
        ("?p=20", "1000 API keys"),
        ("?o=1", "1000 API keys"),
        ("?o=-6", "1000 API keys"),
        ("?state=active", "1000 API keys"),
        ("?state=paused", "1000 API keys"),
        ("?state=expired", "1000 API keys"),
        ("?state=revoked", "1000 API keys"),
        ("?state=expiring", "1000 API keys"),
        ("?state=unused", "1000 API keys"),
        ("?q=Key 77777 of {marker}", "1 API key"),
        ("?q={marker}", "1000 API keys"),
        ("?q={marker}-1234", "50 API keys"),
        ("?q=app-{marker}-1234", "50 API keys"),
        ("?q=sk-gw_...S345", "1 API key"),
        ("?q=nothing of the kind", "0 API keys"),
        ("?q=nothing of the kind&state=paused&o=1", "0 API keys"),
    ],
)
def test_each_list_is_quick(desk: Desk, marker: str, query: str, shown: str) -> None:
    path = page(ApiKey, "changelist") + query.format(marker=marker)
    assert shown in _quick(desk, path)


@pytest.mark.parametrize(("model", "term"), [("team", "-1999"), ("team", "nothing"), ("application", "app-")])
def test_the_autocomplete_of_owners_is_quick(desk: Desk, marker: str, model: str, term: str) -> None:
    source = {"team": "apikey", "application": "apikey"}[model]
    path = f"/admin/autocomplete/?term={term}&app_label=teams&model_name={source}&field_name={model}"
    _quick(desk, path)


def test_a_keys_own_pages_are_quick(desk: Desk, marker: str) -> None:
    key = ApiKey.objects.get(name=f"Key 4242 of {marker}")
    for path in (
        page(ApiKey, "change", key),
        f"{page(ApiKey, 'revoke')}?id={key.pk}",
        page(ApiKey, "history", key),
    ):
        assert key.name in _quick(desk, path)


def _quick(desk: Desk, path: str) -> str:
    """The page, once it was quick: a busy machine has ten attempts, a slow query fails them all."""
    times_s = []
    for _ in range(10):
        started = time.perf_counter()
        response = desk.get(path)
        times_s.append(time.perf_counter() - started)
        assert response.status_code == 200
        if times_s[-1] < BOUND_S:
            return body(response)
    raise AssertionError(f"{path}: {min(times_s):.3f} s at best")
