"""Helpers of the tests of configuration files: YAML under names of the test's own, applied and told."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml
from django.db import transaction

from gateway_site.configuration_file.applying import apply_text
from gateway_site.configuration_file.exporting import export_pieces
from gateway_site.configuration_file.faults import ConfigurationFileError
from gateway_site.configuration_file.telling import tell_counts, tell_plan

ACTOR = "apply (tests)"


def dump(document: dict[str, Any]) -> str:
    """As a file."""
    return yaml.safe_dump(document, sort_keys=False)


def apply(document: dict[str, Any] | str, *, dry_run: bool = False, **variables: str) -> str:
    """Apply, and tell the counts only: added, changed, removed, unchanged."""
    text = document if isinstance(document, str) else dump(document)
    return tell_counts(apply_text(text, actor=ACTOR, dry_run=dry_run, variables=variables))


def tell(document: dict[str, Any] | str, **variables: str) -> str:
    """Apply, and tell everything."""
    text = document if isinstance(document, str) else dump(document)
    return "\n".join(tell_plan(apply_text(text, actor=ACTOR, variables=variables)))


def counts(added: int = 0, changed: int = 0, removed: int = 0, unchanged: int = 0) -> str:
    """What `apply` returns."""
    return f"Added {added}, changed {changed}, removed {removed}, unchanged {unchanged}."


def faults_of(document: dict[str, Any] | str, **variables: str) -> list[str]:
    """What is wrong with it; fails if nothing is."""
    with pytest.raises(ConfigurationFileError) as refused:
        apply(document, dry_run=False, **variables)
    return [str(fault) for fault in refused.value.faults]


def export() -> dict[str, Any]:
    """The whole configuration, parsed."""
    exported: dict[str, Any] = yaml.safe_load("".join(export_pieces()))
    return exported


@contextmanager
def undone() -> Iterator[None]:
    """What happens inside is rolled back."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)
