"""The `.gateway/` folder: data, logs, secrets and the environment that `make run` prepares for every command.

Nothing here imports Django, whose settings read the environment that this module loads.
"""

import base64
import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

# Belongs to DATABASE_URL: taken from the file only together with it, so that migrations never run on the
# embedded database while everything else uses another one.
_FOLLOWERS = {"DATABASE_OWNER_URL": "DATABASE_URL"}


class HomeError(Exception):
    """The folder cannot be used as it is; the message says why and never shows a value."""


@dataclass(frozen=True, slots=True)
class Home:
    """Absolute paths inside the folder; `root` is `GATEWAY_HOME`, or `.gateway` next to manage.py."""

    root: Path

    @classmethod
    def locate(cls) -> "Home":
        """The folder this process uses; it need not exist yet."""
        return cls(Path(os.environ.get("GATEWAY_HOME") or BASE_DIR / ".gateway").expanduser().absolute())

    @property
    def environment(self) -> Path:
        """KEY=VALUE lines with the secrets, mode 0600."""
        return self.root / "environment"

    @property
    def demo(self) -> Path:
        """Users, passwords and the key of the demo, mode 0600; there only while everything is ready."""
        return self.root / "demo.json"

    @property
    def lock(self) -> Path:
        """Locked by the one supervisor that uses this folder."""
        return self.root / "run.lock"

    @property
    def logs(self) -> Path:
        """One bounded log file for each part."""
        return self.root / "logs"

    @property
    def spool(self) -> Path:
        """Usage records on their way to the ledger."""
        return self.root / "spool"

    @property
    def postgres(self) -> Path:
        """The embedded PostgreSQL."""
        return self.root / "postgres"

    @property
    def valkey(self) -> Path:
        """The embedded Valkey."""
        return self.root / "valkey"

    @property
    def beat_schedule(self) -> Path:
        """Celery beat's memory of what ran when."""
        return self.root / "beat-schedule"

    def create(self) -> None:
        """Make the folder and those that hold private data (0700); harmless when they exist."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.logs, self.spool):
            folder.mkdir(mode=0o700, exist_ok=True)


def new_secrets() -> dict[str, str]:
    """Fresh secrets: Django's key, the pepper of key digests, the metrics token, the Fernet key of credentials."""
    return {
        "GATEWAY_SECRET_KEY": secrets.token_urlsafe(48),
        "GATEWAY_KEY_PEPPERS": f"1:{secrets.token_hex(32)}",
        "GATEWAY_METRICS_TOKEN": secrets.token_urlsafe(32),
        "GATEWAY_FIELD_KEYS": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    }


def read_environment(path: Path) -> dict[str, str]:
    """The KEY=VALUE lines of `path`, taken literally; empty when there is no file.

    Blank lines and lines that start with `#` are skipped. Raises `HomeError` for any other line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip().isidentifier():
            raise HomeError(f"{path}, line {number}: expected KEY=VALUE.")
        values[name.strip()] = value.strip()
    return values


def update_environment(path: Path, changes: Mapping[str, str]) -> dict[str, str]:
    """Set `changes` in the file, keep every other line, add missing secrets; returns what the file then says.

    The file is replaced at once (mode 0600), and only when something changed.
    """
    current = read_environment(path)
    wanted = {**new_secrets(), **current, **changes}
    if wanted != current:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if line.partition("=")[0].strip() not in wanted]
        _replace(path, "\n".join([*kept, *(f"{name}={value}" for name, value in wanted.items()), ""]))
    path.chmod(0o600)
    return wanted


def _replace(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def is_set(name: str, environment: Mapping[str, str]) -> bool:
    """Whether `name` has a value there, or a file that holds it (`name_FILE`, see env.py)."""
    return bool(environment.get(name) or environment.get(f"{name}_FILE"))


def load_environment(path: Path) -> None:
    """Put the file's values into `os.environ` where nothing is set yet; without a file, do nothing."""
    given = {name for name in read_environment(path) if is_set(name, os.environ)}
    for name, value in read_environment(path).items():
        if name not in given and _FOLLOWERS.get(name) not in given:
            os.environ[name] = value


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock file while inside; yields False when another process holds it.

    The lock ends with the process, however that ends, so a killed run never blocks the next one.
    """
    with path.open("a+", encoding="utf-8") as file:
        path.chmod(0o600)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield True


ENVIRONMENT_FILE = Home.locate().environment
