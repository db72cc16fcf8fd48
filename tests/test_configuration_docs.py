"""The reference of the configuration file has every field, as the code has it, and the demo is such a file."""

import pytest
import yaml
from django.utils.text import capfirst

from gateway_site import demo
from gateway_site.configuration_file.kinds import KINDS
from gateway_site.configuration_file.kinds.base import Kind
from gateway_site.configuration_file.reading import read_entries
from gateway_site.configuration_file.schema import Field
from gateway_site.home import BASE_DIR

REFERENCE = (BASE_DIR / "docs" / "reference" / "configuration-file.md").read_text()
PAGES = [
    "how-to/configure-from-a-file.md",
    "how-to/set-a-budget.md",
    "how-to/guard-what-teams-send.md",
    "reference/limits-and-budgets.md",
]
EXAMPLES = [
    part.partition("```")[0]
    for page in PAGES
    for part in (BASE_DIR / "docs" / page).read_text().split("```yaml\n")[1:]
]


def describe(kind: Kind, field: Field) -> str:
    needed = "identity" if field.name in kind.identity else "for a new one" if field.is_needed else ""
    form = field.form.described + (" or null" if field.is_nullable else "")
    return f"| `{field.name}` | {form} | {needed} | {field.meaning} |"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.section)
def test_every_field_is_described_and_no_other(kind: Kind) -> None:
    _, _, section = REFERENCE.partition(f"\n## {capfirst(kind.section)}\n")
    rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    assert rows == [describe(kind, field) for field in kind.fields]


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_a_file_that_can_be_read(example: str) -> None:
    variables = {"GATEWAY_APPLY_OPENAI_KEY": "x"}
    assert read_entries(example, variables)


def test_the_demo_holds_no_secret() -> None:
    document = yaml.safe_load(demo.FILE.read_text())
    secrets = [person["password"] for person in document["people"]]
    secrets += [document["keys"][0]["secret"], document["backends"][0]["credential"]]
    assert all(secret.startswith("${") for secret in secrets)
