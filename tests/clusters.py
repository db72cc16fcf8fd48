"""A real cluster of three servers without replicas, as tests hurt it."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import redis
from redis.crc import key_slot

from billing.admission.commands import LEASES, marker_key
from gateway_site.embedded import EmbeddedValkey
from tests.processes import free_ports, wait_for

SLOTS = 16_384
SERVERS = 3  # fewer have no majority left when one is killed


class ClusterServer(EmbeddedValkey):
    """One primary, which keeps no data on disk; a password guards it if it is given one."""

    def __init__(self, folder: Path, port: int, bus_port: int, password: str = "") -> None:
        super().__init__(folder)
        self.port = port
        self._bus_port = bus_port
        self._password = password

    def command(self) -> list[str]:
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "cluster-enabled": "yes",
            "cluster-port": str(self._bus_port),
            "cluster-node-timeout": "1000",
            "cluster-require-full-coverage": "no",
            "appendonly": "no",
        }
        if self._password:
            options |= {"requirepass": self._password, "primaryauth": self._password}
        return [
            *super().command(),
            *(word for name, value in options.items() for word in (f"--{name}", value)),
        ]

    def is_ready(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def client(self) -> Any:
        return redis.Redis(
            port=self.port, password=self._password or None, socket_timeout=2, decode_responses=True
        )

    def ask(self, *words: str | int | bytes) -> Any:
        with self.client() as client:
            return client.execute_command(*words)

    @property
    def id(self) -> str:
        return str(self.ask("CLUSTER", "MYID"))

    def kill(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Cluster:
    """A third of the slots on each server."""

    def __init__(self, folder: Path, password: str = "") -> None:
        ports = free_ports(2 * SERVERS)
        pairs = zip(ports[:SERVERS], ports[SERVERS:], strict=True)
        self.servers = [
            ClusterServer(folder / str(number), port, bus_port, password)
            for number, (port, bus_port) in enumerate(pairs)
        ]
        self._bus_ports = ports[SERVERS:]
        self.password = password

    def __enter__(self) -> Self:
        for server in self.servers:
            server.start()
        share = SLOTS // SERVERS
        for number, server in enumerate(self.servers):
            last = SLOTS - 1 if number == SERVERS - 1 else (number + 1) * share - 1
            server.ask("CLUSTER", "ADDSLOTSRANGE", number * share, last)
            for other, bus_port in zip(self.servers, self._bus_ports, strict=True):
                if other is not server:
                    server.ask("CLUSTER", "MEET", "127.0.0.1", other.port, bus_port)
        wait_for(self.is_whole, "a cluster that is whole")
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            server.stop()

    @property
    def url(self) -> str:
        user = f"default:{self.password}@" if self.password else ""
        return f"redis://{user}127.0.0.1:{self.servers[0].port}/0"

    def is_whole(self) -> bool:
        """Whether every server knows who has which slot, and that all are well."""
        with contextlib.suppress(redis.RedisError):
            return all(
                "cluster_state:ok" in str(server.ask("CLUSTER", "INFO"))
                and len({slots[2][1] for slots in server.ask("CLUSTER", "SLOTS")}) == SERVERS
                and sum(slots[1] - slots[0] + 1 for slots in server.ask("CLUSTER", "SLOTS")) == SLOTS
                for server in self.servers
            )
        return False

    def server_of(self, department_id: int) -> ClusterServer:
        """Who has a department's counters."""
        return self._server_of(marker_key(department_id))

    def server_of_leases(self) -> ClusterServer:
        """Who knows which workers live."""
        return self._server_of(LEASES)

    def _server_of(self, key: bytes) -> ClusterServer:
        slot = key_slot(key)
        for first, last, primary, *_ in self.servers[0].ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(server for server in self.servers if server.port == primary[1])
        raise AssertionError(f"nobody has slot {slot}")

    @contextlib.contextmanager
    def replica_of(self, primary: ClusterServer, folder: Path) -> Iterator[ClusterServer]:
        """One more server, which takes over when `primary` is dead."""
        port, bus_port = free_ports(2)
        replica = ClusterServer(folder, port, bus_port, self.password)
        replica.start()
        try:
            its_bus_port = self._bus_ports[self.servers.index(primary)]
            replica.ask("CLUSTER", "MEET", "127.0.0.1", primary.port, its_bus_port)
            wait_for(lambda: primary.id in str(replica.ask("CLUSTER", "NODES")), "an introduction")
            replica.ask("CLUSTER", "REPLICATE", primary.id)
            wait_for(lambda: "master_link_status:up" in self._replication(replica), "a replica that follows")
            wait_for(lambda: all(replica.id in self._nodes(server) for server in self.servers), "its fame")
            yield replica
        finally:
            replica.stop()

    def _replication(self, server: ClusterServer) -> str:
        with server.client() as client:
            return "\n".join(f"{name}:{value}" for name, value in client.info("replication").items())

    def _nodes(self, server: ClusterServer) -> str:
        return str(server.ask("CLUSTER", "NODES"))

    def begin_move(self, slot: int, source: ClusterServer, target: ClusterServer) -> None:
        """From here on keys are asked for at the target when the source has them no more."""
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)

    def move_keys(self, slot: int, source: ClusterServer, target: ClusterServer, *, most: int = 0) -> None:
        """All keys of the slot, or `most` of them, one by one."""
        moved = 0
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1):
            auth = ["AUTH", self.password] if self.password else []
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 2000, "REPLACE", *auth, "KEYS", *keys)
            moved += 1
            if moved == most:
                return
            time.sleep(0.002)

    def end_move(self, slot: int, source: ClusterServer, target: ClusterServer) -> None:
        """The slot is the target's."""
        for server in (target, source, *self.servers):
            server.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def move_at_once(self, slot: int, source: ClusterServer, target: ClusterServer) -> None:
        """As servers do it that have a command for it."""
        source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.id)
        wait_for(lambda: self._has(target, slot), "the slot at its new server")

    def _has(self, server: ClusterServer, slot: int) -> bool:
        return any(
            first <= slot <= last and primary[1] == server.port
            for first, last, primary, *_ in server.ask("CLUSTER", "SLOTS")
        )
