"""Connections to a real cluster: commands find their server, also while slots move and servers die."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from redis.crc import key_slot

from billing.admission.cluster import Address, Redirect, SlotMap, Turn, read_redirect, read_slots, url_at
from billing.admission.commands import Command, Commands, marker_key, plain, read_marker
from billing.admission.connections import Connections
from billing.admission.links import DirectLink, StoreLost, StoreRefused
from billing.admission.scripts import load_scripts
from tests.clusters import Cluster
from tests.processes import wait_for

SCRIPTS = load_scripts()
COMMANDS = Commands(SCRIPTS)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), password="of-all-servers") as cluster:
        yield cluster


def run(cluster: Cluster, play: Callable[[Connections], Awaitable[None]]) -> None:
    async def scene() -> None:
        connections = Connections(cluster.url, SCRIPTS, on_opened=lambda: None, greeting=list)
        connections.start()
        try:
            for department in range(1, 7):
                async with asyncio.timeout(5):
                    await connections.opened(marker_key(department))
            await play(connections)
        finally:
            await connections.close()

    asyncio.run(scene())


def slot_of(department: int) -> int:
    return key_slot(marker_key(department))


class Moving:
    """The slot of a department, on its way to another server; afterwards it is there."""

    def __init__(self, cluster: Cluster, department: int) -> None:
        self.cluster = cluster
        self.slot = slot_of(department)
        self.source = cluster.server_of(department)
        self.target = next(server for server in cluster.servers if server is not self.source)

    def __enter__(self) -> "Moving":
        self.cluster.begin_move(self.slot, self.source, self.target)
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.move_keys(self.slot, self.source, self.target)
        self.cluster.end_move(self.slot, self.source, self.target)


def test_each_command_finds_its_server_and_each_reply_its_place(cluster: Cluster) -> None:
    async def play(connections: Connections) -> None:
        keys = [f"{{d{department}}}:test" for department in range(40)]
        await connections.exchange([plain("SET", key, key) for key in keys])
        assert await connections.exchange([plain("GET", key) for key in keys]) == [
            key.encode() for key in keys
        ]

    run(cluster, play)
    assert all(int(server.ask("DBSIZE")) > 5 for server in cluster.servers)
    with closing(DirectLink(cluster.url, SCRIPTS)) as link:
        keys = [f"{{d{department}}}:test" for department in range(40)]
        assert link.exchange([plain("GET", key) for key in keys]) == [key.encode() for key in keys]
        assert len(link.ask_each(plain("INFO", "memory", key=b""))) == len(cluster.servers)


def test_a_user_of_the_url_is_one_at_all_servers_and_told_what_it_may_not(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    for server in cluster.servers:
        server.ask(
            "ACL",
            "SETUSER",
            "counters",
            "on",
            ">its-own",
            "~{d*",
            "~{g}*",
            "+@all",
            "-cluster",
            "+cluster|slots",
        )
    url = cluster.url.replace("default:of-all-servers", "counters:its-own")
    everywhere = [plain("SET", f"{{d{number}}}:acl", "1") for number in range(20)]

    async def scene(patience_s: float) -> bool:
        connections = Connections(url, SCRIPTS, on_opened=lambda: None, greeting=list)
        connections.start()
        try:
            async with asyncio.timeout(patience_s):
                for command in everywhere:
                    await connections.opened(command.key)
            return await connections.exchange(everywhere) == [b"OK"] * len(everywhere)
        except TimeoutError:
            return False
        finally:
            await connections.close()

    assert asyncio.run(scene(5))
    with closing(DirectLink(url, SCRIPTS)) as link:
        assert link.exchange(everywhere) == [b"OK"] * len(everywhere)
    for server in cluster.servers:
        server.ask("ACL", "SETUSER", "counters", "-cluster|slots")
    assert not asyncio.run(scene(1))
    assert sum("does not tell its slots" in message for message in caplog.messages) == 1


def test_scripts_know_the_run_of_the_server_that_has_the_key(cluster: Cluster) -> None:
    async def play(connections: Connections) -> None:
        for department in range(1, 7):
            key = marker_key(department)
            await connections.exchange([COMMANDS.call("begin", key, 1, "nonce")])
            (reply,) = await connections.exchange([COMMANDS.status(department)])
            assert read_marker(reply).is_of_this_run
            with closing(DirectLink(cluster.url, SCRIPTS)) as link:
                assert read_marker(link.exchange([COMMANDS.status(department)])[0]).is_of_this_run

    run(cluster, play)


def test_a_slot_that_has_moved_is_followed_in_order(cluster: Cluster) -> None:
    async def play(connections: Connections) -> None:
        link = DirectLink(cluster.url, SCRIPTS)
        link.exchange([plain("DEL", "{d101}:list")])
        with Moving(cluster, 101):
            pass
        pushes = [plain("RPUSH", "{d101}:list", str(number)) for number in range(50)]
        assert await connections.exchange(pushes) == list(range(1, 51))
        assert link.exchange([plain("LLEN", "{d101}:list")]) == [50]
        assert await connections.exchange([plain("LINDEX", "{d101}:list", "49")]) == [b"49"]
        link.close()

    run(cluster, play)


def test_a_key_that_is_gone_ahead_is_asked_for_where_it_went(cluster: Cluster) -> None:
    async def play(connections: Connections) -> None:
        await connections.exchange([plain("SET", "{d102}:a", "1")])
        with Moving(cluster, 102) as moving, closing(DirectLink(cluster.url, SCRIPTS)) as link:
            cluster.move_keys(moving.slot, moving.source, moving.target)
            assert await connections.exchange([plain("INCR", "{d102}:a")]) == [2]
            assert link.exchange([plain("INCR", "{d102}:a"), plain("INCR", "{d102}:a")]) == [3, 4]

    run(cluster, play)


@pytest.mark.parametrize("how", ["command", "script"])
def test_what_is_half_moved_is_lost_for_the_moment_and_does_nothing(cluster: Cluster, how: str) -> None:
    department = {"command": 103, "script": 104}[how]
    key = marker_key(department)

    async def play(connections: Connections) -> None:
        await connections.exchange([COMMANDS.call("begin", key, 1, "nonce")])
        command: Command
        if how == "command":  # of two keys, one of which has gone: TRYAGAIN
            command = plain("MSET", key + b"x", "1", key + b"y", "2", key=key)
            await connections.exchange([plain("SET", key + b"x", "0")])
            here = [key + b"x"]
        else:  # the marker is there and what the script reads is not
            command = COMMANDS.call("write", key, "nonce", "watermarks", "spool", 5)
            here = [key]
        with Moving(cluster, department):
            with pytest.raises(StoreLost, match="moved") as lost:
                await connections.exchange([command])
            assert not lost.value.was_sent
            with closing(DirectLink(cluster.url, SCRIPTS)) as link, pytest.raises(StoreLost, match="moved"):
                link.exchange([command])
            assert await connections.exchange([plain("EXISTS", one) for one in here]) == [1]
        if how == "command":
            assert await connections.exchange([plain("GET", key + b"x"), command]) == [b"0", b"OK"]

    run(cluster, play)


def test_other_slots_go_on_while_a_server_is_dead_and_it_is_found_when_it_is_back(cluster: Cluster) -> None:
    async def play(connections: Connections) -> None:
        dead = cluster.servers[0]  # the one that the URL names
        by_server = {cluster.server_of(number): number for number in range(200, 230)}
        theirs = plain("SET", f"{{d{by_server[dead]}}}:k", "1")
        ours = [
            plain("SET", f"{{d{number}}}:k", "1")
            for server, number in by_server.items()
            if server is not dead
        ]
        link = DirectLink(cluster.url, SCRIPTS)
        link.exchange([*ours, theirs])
        dead.kill()
        for _ in range(20):
            assert await connections.exchange(ours) == [b"OK"] * len(ours)
            with pytest.raises(StoreLost):
                await connections.exchange([theirs])
            await asyncio.sleep(0.1)
        assert not connections.are_all_open
        for known in (link, DirectLink(connections.url, SCRIPTS)):
            with pytest.raises(StoreLost):
                known.exchange([theirs])
            assert known.exchange(ours) == [b"OK"] * len(ours)
            known.close()
        dead.start()
        async with asyncio.timeout(5):
            await connections.opened(theirs.key)
        for _ in range(50):  # it is connected before it takes part in the cluster
            with contextlib.suppress(StoreLost):
                if await connections.exchange([theirs]) == [b"OK"]:
                    break
            await asyncio.sleep(0.1)
        else:
            raise AssertionError("the server is not found again")
        assert connections.lost >= 1

    run(cluster, play)


@pytest.mark.slow
def test_the_server_of_a_promoted_replica_is_another_run(tmp_path: Path) -> None:
    with Cluster(tmp_path, password="of-all-servers") as cluster:
        primary = cluster.servers[1]
        department = next(number for number in range(1, 100) if cluster.server_of(number) is primary)
        with cluster.replica_of(primary, tmp_path / "replica") as replica:

            async def play(connections: Connections) -> None:
                key = marker_key(department)
                begun = [COMMANDS.call("begin", key, 1, "nonce"), COMMANDS.status(department)]
                assert read_marker((await connections.exchange(begun))[1]).is_of_this_run
                wait_for(lambda: replica.ask("DBSIZE") > 0, "the marker at the replica")
                primary.kill()
                async with asyncio.timeout(15):
                    while True:
                        with contextlib.suppress(StoreLost):
                            (reply,) = await connections.exchange([COMMANDS.status(department)])
                            break
                        await asyncio.sleep(0.05)
                assert read_marker(reply).n == 1
                assert not read_marker(reply).is_of_this_run

            run(cluster, play)


def test_an_error_that_is_none_of_the_place_is_the_reply(cluster: Cluster) -> None:
    async def play(connections: Connections) -> None:
        await connections.exchange([plain("SET", "{d1}:text", "x")])
        (reply,) = await connections.exchange([plain("LPUSH", "{d1}:text", "y")])
        assert isinstance(reply, StoreRefused)

    run(cluster, play)


@pytest.mark.parametrize(
    ("error", "redirect"),
    [
        ("MOVED 3999 127.0.0.1:6381", Redirect(Turn.MOVED, 3999, Address("127.0.0.1", 6381))),
        ("MOVED 3999 :6381", Redirect(Turn.MOVED, 3999, Address("asked", 6381))),
        ("MOVED 3999 ?:6381", Redirect(Turn.MOVED, 3999, Address("asked", 6381))),
        ("ASK 1 ::1:6381", Redirect(Turn.ASK, 1, Address("::1", 6381))),
        ("MOVED 7 node.example.com:1", Redirect(Turn.MOVED, 7, Address("node.example.com", 1))),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Redirect(Turn.LATER)),
        ("CLUSTERDOWN Hash slot not served", Redirect(Turn.LATER)),
        (
            "ERR Attempted to access a non local key in a cluster node script: on @user_script:2.",
            Redirect(Turn.LATER),
        ),
        ("ERR Script attempted to access a non local key in a cluster node", Redirect(Turn.LATER)),
        ("ERR a counter holds no number", None),
        ("WRONGTYPE Operation", None),
    ],
)
def test_redirections_are_read(error: str, redirect: Redirect | None) -> None:
    assert read_redirect(error, "asked") == redirect


def test_slots_are_read_with_the_host_that_was_asked_where_a_server_has_no_name() -> None:
    slots = read_slots(
        [[0, 9, [b"", 1, b"id"], [b"replica", 2, b"id"]], [10, 16383, [None, 3, b"id"]]], "asked"
    )
    assert slots.addresses == {Address("asked", 1), Address("asked", 3)}
    assert SlotMap().of(b"{d1}:e") is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://a:1/0", "redis://h:9/0"),
        ("rediss://user:p%40ss@a?ssl_ca_certs=/ca.pem", "rediss://user:p%40ss@h:9?ssl_ca_certs=/ca.pem"),
        ("unix://:secret@/run/valkey.sock?db=0", "redis://:secret@h:9"),
    ],
)
def test_the_url_of_another_server_keeps_user_password_and_tls(url: str, expected: str) -> None:
    assert url_at(url, Address("h", 9)) == expected
    assert url_at(url, Address("::1", 9)) == expected.replace("h:9", "[::1]:9")
