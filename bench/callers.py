"""Makes the callers of a benchmark in its database: one under no rules, one under limits and budgets on four levels.

`python -m bench.callers MODEL FILE` writes their keys as JSON.
"""

import json
import os
import sys
from pathlib import Path

import django

_PER_MINUTE = 10**9
_NANOUSD = 10**16


def main(model_name: str, file: Path) -> None:
    """Make both, granted the model, and write `{"free": key, "ruled": key}`."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_site.settings")
    django.setup()
    keys = {name: _make_caller(name, model_name) for name in ("free", "ruled")}
    _rule("bench-ruled")
    file.write_text(json.dumps(keys))


def _make_caller(name: str, model_name: str) -> str:
    from routing.models import CatalogueModel, Grant
    from teams.models import Application, Department, Team
    from teams.services import create_key

    department = Department.objects.create(slug=f"bench-{name}", name="Benchmark")
    team = Team.objects.create(department=department, slug=f"bench-{name}", name="Benchmark")
    application = Application.objects.create(team=team, slug="bench", name="Benchmark")
    Grant.objects.create(team=team, model=CatalogueModel.objects.get(name=model_name))
    return create_key(team, "Benchmark", actor="bench", application=application).secret


def _rule(team_slug: str) -> None:
    """A limit and a budget for the department, the team, the application and the key."""
    from billing.rule_models import Budget, Limit
    from teams.models import ApiKey

    key = ApiKey.objects.select_related("team__department", "application").get(team__slug=team_slug)
    for owner in (
        {"department": key.team.department},
        {"team": key.team},
        {"application": key.application},
        {"api_key": key},
    ):
        Limit.objects.create(kind="rpm", amount=_PER_MINUTE, **owner)
        Budget.objects.create(unit="money", period="month", amount=_NANOUSD, **owner)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
