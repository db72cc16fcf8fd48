"""The database as a file: everything that `apply` takes but secrets, in a fixed order."""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import yaml

from gateway_site.configuration_file.kinds import KINDS
from gateway_site.configuration_file.kinds.base import Kind, Row
from gateway_site.configuration_file.reading import VERSION

_HEADER = """\
# The gateway's configuration, as `manage.py export` wrote it; `manage.py apply` takes it.
# It holds no password, no key and no credential. Keys are there by digest: they work where the same
# GATEWAY_KEY_PEPPERS are in force. Credentials of backends that are stored have to be given again elsewhere.
"""


class _Dumper(yaml.SafeDumper):
    """Exact decimals and moments, as the reader takes them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Lists are indented below their name."""
        super().increase_indent(flow, False)


def _represent_decimal(dumper: Any, value: Decimal) -> Any:
    text = f"{value:f}"
    return dumper.represent_scalar(f"tag:yaml.org,2002:{'float' if '.' in text else 'int'}", text)


def _represent_moment(dumper: Any, value: datetime) -> Any:
    text = value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return dumper.represent_scalar("tag:yaml.org,2002:timestamp", text)


_Dumper.add_representer(Decimal, _represent_decimal)
_Dumper.add_representer(datetime, _represent_moment)


def export_pieces(*, without: Collection[str] = ()) -> Iterator[str]:
    """The whole configuration, but for the sections in `without`, object by object."""
    yield f"{_HEADER}version: {VERSION}\n"
    for kind in KINDS:
        if kind.section not in without:
            yield from _dump_section(kind, with_keys="keys" not in without)


def _dump_section(kind: Kind, *, with_keys: bool) -> Iterator[str]:
    heading = f"\n{kind.section}:\n"
    for row in kind.all_rows():
        if not with_keys and row.values.get("key") is not None:
            continue  # a rule of a key goes where the key goes
        item = [dict(_list_fields(kind, row))]
        dumped = yaml.dump(item, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
        yield heading + "".join(f"  {line}\n" for line in dumped.splitlines())
        heading = ""


def _list_fields(kind: Kind, row: Row) -> Iterator[tuple[str, Any]]:
    for field in (field for field in kind.fields if field.is_exported and field.name in row.values):
        value = row.values[field.name]
        if value is not None or not field.is_nullable:
            yield field.name, field.form.write(value)
        elif field.name not in kind.identity:  # else a scope that the role does not have
            yield field.name, None
