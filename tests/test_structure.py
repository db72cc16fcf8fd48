"""The shape of the code: who may import whom, and that migrations match the models."""

import ast
from pathlib import Path

import pytest
from django.core.management import call_command

from gateway_site.home import BASE_DIR

ORDER = ["outbound", "audit", "teams", "billing", "guards", "routing", "gateway_site"]


def imports_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return {name.partition(".")[0] for name in names} & set(ORDER)


@pytest.mark.parametrize("app", ORDER)
def test_imports_go_one_way(app: str) -> None:
    allowed = set(ORDER[: ORDER.index(app) + 1])
    files = list((BASE_DIR / app).rglob("*.py"))
    assert files
    for path in files:
        assert imports_of(path) <= allowed, path


def test_the_simulator_needs_nothing_of_the_project() -> None:
    for path in (BASE_DIR / "routing" / "simulator").glob("*.py"):
        assert imports_of(path) <= {"routing"}, path


def test_migrations_match_the_models() -> None:
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


def test_the_pipeline_fits_on_one_screen() -> None:
    tree = ast.parse((BASE_DIR / "routing" / "pipeline.py").read_text())
    (function,) = [node for node in tree.body if getattr(node, "name", "") == "complete"]
    assert isinstance(function, ast.AsyncFunctionDef)
    assert function.end_lineno is not None
    assert function.end_lineno - function.lineno < 40
