"""The documents agree with the code: links resolve, and every setting, reason and ledger column is described.

Most code is read as text, and nothing here needs a service.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from billing.admission.refusals import AWAY_REBUILDING, AWAY_STORE, RefusalKind, Refused
from billing.admission.rules import Budget, Limit, Owner, Rate, Scope, Unit
from billing.admission.windows import Period
from routing.refusals import refusal_error
from teams.errors import GatewayError
from tests.roles_table import ACTIONS, EXPECTED, ROLES

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+?) *$", re.MULTILINE)


def _links(page: Path) -> list[str]:
    """The targets of a page's links that lead to a file or a heading of ours."""
    text = _CODE.sub("", _FENCE.sub("", page.read_text(encoding="utf-8")))
    return [link for link in _LINK.findall(text) if not re.match(r"[a-z]+:", link)]


def _anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = _HEADING.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _calls(path: str) -> Iterator[tuple[str, list[ast.expr]]]:
    """Every call in a module: the name called, without its owner, and its positional arguments."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            yield name, node.args


def _text(expression: ast.expr) -> str:
    is_text = isinstance(expression, ast.Constant) and isinstance(expression.value, str)
    return expression.value if is_text else ""  # type: ignore[attr-defined]


def _settings() -> set[str]:
    """The environment variables named in calls of settings.py, home.py and run.py."""
    modules = ("gateway_site/settings.py", "gateway_site/home.py", "gateway_site/run.py")
    readers = {"text", "integer", "flag", "items", "rate", "get", "read_port", "is_set"}
    calls = [call for module in modules for call in _calls(module)]
    first = {_text(arguments[0]) for name, arguments in calls if name in readers and arguments}
    return {name for name in first if re.fullmatch(r"[A-Z][A-Z0-9_]+", name)}


def _reasons() -> set[tuple[str, str]]:
    """Reason and status of every error that the code makes; the status is empty where it varies."""
    found = set()
    for module in ("teams/errors.py", "routing/providers/base.py"):
        for name, arguments in _calls(module):
            if (
                name in {"GatewayError", "_failure"}
                and len(arguments) > 1
                and (reason := _text(arguments[1]))
            ):
                status = arguments[0].value if isinstance(arguments[0], ast.Constant) else ""
                found.add((reason, str(status)))
    return found


def _columns() -> set[str]:
    """The fields of UsageRecord."""
    module = ast.parse((ROOT / "billing/models.py").read_text(encoding="utf-8"))
    record = next(
        node for node in module.body if isinstance(node, ast.ClassDef) and node.name == "UsageRecord"
    )
    assigned = [node for node in record.body if isinstance(node, ast.Assign)]
    return {target.id for node in assigned for target in node.targets if isinstance(target, ast.Name)}


def _rows(page: str) -> list[list[str]]:
    """The cells of every row of a page's tables."""
    lines = (REFERENCE / page).read_text(encoding="utf-8").splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_resolves(page: Path) -> None:
    for link in _links(page):
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        assert not anchor or anchor in _anchors(target), f"{link} names no heading"


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / link.partition("#")[0]).resolve() for link in _links(index)}
    assert {page for page in PAGES if page.is_relative_to(index.parent)} - {index} <= listed


def test_every_environment_variable_is_described() -> None:
    names = _settings()
    assert {"DATABASE_URL", "GATEWAY_SECRET_KEY", "GATEWAY_HOME", "PORT"} <= names
    assert names <= {row[0].strip("`") for row in _rows("settings.md")}


def test_every_reason_is_described_with_its_status() -> None:
    reasons = _reasons()
    assert {("key_invalid", "401"), ("backend_error", "502"), ("backend_rejected", "")} <= reasons
    rows = {row[1].strip("`"): row[0] for row in _rows("errors.md")}
    assert [(reason, status) for reason, status in reasons if status not in rows.get(reason, "none")] == []


def _refusals() -> dict[str, GatewayError]:
    """What callers see of every kind of refusal of the counters, by its reason."""
    budget = Budget(1, Owner(Scope.TEAM, 1, "search"), Unit.MONEY, Period.DAY, 5)
    limit = Limit(2, Owner(Scope.KEY, 1, "gw-1"), Rate.REQUESTS, 5)
    refused = [Refused(kind, budget) for kind in (RefusalKind.HARD, RefusalKind.HELD)]
    errors = map(refusal_error, [*refused, Refused(RefusalKind.RATE, limit), AWAY_STORE, AWAY_REBUILDING])
    return {error.reason: error for error in errors}


def test_every_refusal_of_the_counters_is_described_as_it_is() -> None:
    refusals = _refusals()
    rows = {row[1].strip("`"): row for row in _rows("errors.md") if row[0].isdigit()}
    to_do = {row[0].strip("`") for row in _rows("errors.md")}
    written = set(
        re.findall(r'"((?:budget|rate|counters)_[a-z]+)"', (ROOT / "routing/refusals.py").read_text())
    )
    assert written - {"rate_limit_error", "rate_limit_exceeded"} == set(refusals) <= to_do
    for reason, error in refusals.items():
        status, _, type_, code, _, retries, *_ = rows[reason]
        assert (status, type_.strip("`"), code.strip("`")) == (str(error.status), error.type, error.code)
        assert retries.startswith("no") == (error.headers.get("x-should-retry") == "false")
        assert {"retry-after", "retry-after-ms"} <= set(error.headers)


def test_every_ledger_column_is_described() -> None:
    columns = _columns()
    assert {"request_id", "cost_nanousd", "overhead_us"} <= columns
    assert columns <= {name for row in _rows("ledger.md") for name in re.findall(r"`(\w+)`", row[0])}


def _metrics() -> set[str]:
    """The names of all metrics that the code makes, as scraped."""
    first = {"Metric", "_gauge", "GaugeMetricFamily", "CounterMetricFamily"}
    calls = [
        call for path in ("routing/metric_names.py", "gateway_site/metrics_page.py") for call in _calls(path)
    ]
    named = [(name, arguments) for name, arguments in calls if name in first and arguments]
    found = set()
    for name, arguments in named:
        is_counter = name == "CounterMetricFamily" or (
            len(arguments) > 1 and _text(arguments[1]) == "counter"
        )
        found.add(_text(arguments[0]) + ("_total" if is_counter else ""))
    return found - {"", "_total"} | {"gateway_shipper_last_success_timestamp_seconds"}


def test_every_metric_is_described_and_every_described_metric_exists() -> None:
    described = {row[0].strip("`") for row in _rows("metrics.md")} - {"Metric", "---"}
    assert {"gateway_requests_total", "gateway_open_streams", "gateway_build_info"} <= described
    assert described == _metrics()


def test_every_health_code_is_described_and_every_described_code_exists() -> None:
    module = ast.parse((ROOT / "gateway_site/faults.py").read_text(encoding="utf-8"))
    made = {_text(arguments[0]) for name, arguments in _calls("gateway_site/faults.py") if name == "Fault"}
    (codes,) = [
        {_text(item) for item in node.value.elts}
        for node in module.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)
        if any(isinstance(target, ast.Name) and target.id == "CODES" for target in node.targets)
    ]
    assert "store_evicts" in codes
    assert (
        made
        == codes
        == {row[0].strip("`") for row in _rows("health.md") if row[1] in {"200", "503"}} - {"/livez"}
    )


def test_the_matrix_of_roles_is_the_one_the_code_is_tested_with() -> None:
    rows = {row[0].strip("`"): row[2:] for row in _rows("roles.md") if row[0].startswith("`")}
    cells = {action: [EXPECTED[action, role] for role in ROLES] for action in ACTIONS}
    assert {action: [cell.rstrip(" |") for cell in row] for action, row in rows.items()} == cells
