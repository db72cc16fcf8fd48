"""After the whole run: no key and no credential that it made lies where it should not. Names places, never values."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import psycopg
from psycopg import sql

_KEY = re.compile(rb"sk-gw_[0-9A-Za-z]{49}")
_KEY_HEX = re.compile(rb"736b2d67775f(?:[0-9a-f]{2}){49}")
_READ_BYTES = 1024**2
_SHORTEST = 12  # shorter values are found by chance
_FILES = ("*.log", "*.spool", "*.torn", "*.metrics", "shipper.json", "*.html", "*.txt")


@dataclass(frozen=True, slots=True)
class Finding:
    """A secret where it should not be."""

    kind: str
    place: str

    def __str__(self) -> str:
        return f"{self.kind} in {self.place}"


@dataclass(slots=True)
class SecretScan:
    """Looks for API keys by their form and checksum, and for known secrets by value; in plain text and in hex."""

    secrets: Mapping[str, Iterable[str]]
    findings: set[Finding] = field(default_factory=set)
    scanned_bytes: int = 0
    _kinds: dict[bytes, str] = field(init=False)
    _known: "re.Pattern[bytes] | None" = field(init=False)

    def __post_init__(self) -> None:
        self._kinds = {}
        for kind, values in self.secrets.items():
            for value in (value.rstrip("=").encode() for value in values if len(value) >= _SHORTEST):
                self._kinds |= {value: kind, value.hex().encode(): kind}
        longest_first = sorted(self._kinds, key=len, reverse=True)
        self._known = re.compile(b"|".join(map(re.escape, longest_first))) if longest_first else None

    def look(self, place: str, data: bytes) -> None:
        """Note what `data`, which comes from `place`, holds."""
        self.scanned_bytes += len(data)
        keys = [match.decode() for match in _KEY.findall(data)]
        keys += [bytes.fromhex(match.decode()).decode("latin-1") for match in _KEY_HEX.findall(data)]
        if any(map(_is_key, keys)):
            self.findings.add(Finding("an API key", place))
        for match in self._known.findall(data) if self._known else ():
            self.findings.add(Finding(self._kinds[match], place))

    def look_at_files(self, folder: Path) -> None:
        """Every log, spool, metrics and page file below `folder`."""
        for pattern in _FILES:
            for path in folder.rglob(pattern):
                if path.is_file():
                    self.look(f"the file {path.relative_to(folder)}", _used_part(path))

    def look_at_database(self, connection: "psycopg.Connection[object]") -> None:
        """Every column of every table, as a plain dump has them."""
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            )
            tables = sorted(str(row[0]) for row in cursor.fetchall())  # type: ignore[index]
            for table in tables:
                for rows in _dump(cursor, table):
                    self.look(f"the table {table}", rows)


def _is_key(text: str) -> bool:
    from teams.keys import is_well_formed

    return is_well_formed(text)


def _used_part(path: Path) -> bytes:
    """The file without the reserved zeros at its end."""
    pieces = []
    with path.open("rb") as file:
        while (piece := file.read(_READ_BYTES)).strip(b"\0"):
            pieces.append(piece)
    return b"".join(pieces)


def _dump(cursor: "psycopg.Cursor[object]", table: str) -> Iterator[bytes]:
    """The rows of `table` in pieces that break between rows."""
    rows, size = [], 0
    with cursor.copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(table))) as copy:
        for row in copy:
            rows.append(bytes(row))
            size += len(row)
            if size > _READ_BYTES:
                yield b"".join(rows)
                rows, size = [], 0
    yield b"".join(rows)


def made_secrets() -> dict[str, list[str]]:
    """What this run made and may be in no place: the installation's secrets, passwords, and every stored credential."""
    from django.conf import settings

    from gateway_site import demo
    from tests.factories import BACKEND_SECRET
    from tests.people import PASSWORD

    return {
        "the signing key": [settings.SECRET_KEY],
        "a pepper": [item.partition(":")[2] for item in settings.GATEWAY_KEY_PEPPERS.split(",")],
        "a field key": list(settings.GATEWAY_FIELD_KEYS),
        "the metrics token": [settings.GATEWAY_METRICS_TOKEN],
        "a password": [PASSWORD, *(demo.demo_password(person) for person in demo.PEOPLE)],
        "a backend credential": [BACKEND_SECRET, *stored_credentials()],
        "a referenced credential": [
            value for name, value in os.environ.items() if name.startswith("GATEWAY_CREDENTIAL_")
        ],
    }


def stored_credentials() -> list[str]:
    """Every backend credential that the database still holds, decrypted."""
    from outbound.credentials import CredentialError, decrypt_credential
    from routing.models import Backend

    found = []
    for backend in Backend.objects.exclude(credential_encrypted=None):
        try:
            found.append(decrypt_credential(bytes(backend.credential_encrypted or b""), backend.base_url))
        except CredentialError:  # of other keys or another host: a test made it so
            continue
    return found


def exported_configuration() -> str:
    """What `manage.py export` writes."""
    from django.core.management import call_command

    output = StringIO()
    call_command("export", stdout=output)
    return output.getvalue()


def scan_run(home: Path, temporary: Path) -> SecretScan:
    """Look at everything that the run left: files, export and database."""
    scan = SecretScan(made_secrets())
    for folder in (home, temporary):
        scan.look_at_files(folder)
    scan.look("the output of export", exported_configuration().encode())
    with psycopg.connect(os.environ["DATABASE_OWNER_URL"]) as connection:
        scan.look_at_database(connection)
    return scan
