"""Calls whose worker died: each is in the ledger, at its estimate, unless its end was told."""

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from django.conf import settings

from billing.ids import uuid7
from billing.ledger import OPEN_MARK
from billing.models import QuarantinedFrame, UsageRecord
from billing.shipper import Shipper, read_watermark, ship_frames
from billing.spool import Frame, segment_name
from tests.entries import entry
from tests.factories import Caller, make_caller, unique
from tests.processes import Processes, Product, Simulator, wait_for
from tests.routes import EMBEDDINGS, WAYS, Route

WRITER = """
import sys, uuid; from pathlib import Path; from billing.spool import Spool
spool = Spool(uuid.UUID(sys.argv[1]), Path(sys.argv[2]), max_bytes=10**7, segment_bytes=65536)
for line in sys.stdin:
    body = bytes.fromhex(line.strip())
    if body.startswith(b"R"):
        spool.admit(); spool.append_open(body)
    else:
        spool.append(body)
    print("done", flush=True)
"""


class Owner:
    """A process with a spool of its own that writes what it is told, and dies when told."""

    def __init__(self, folder: Path) -> None:
        self.spool = uuid.uuid4()
        self.seq = 0
        command = [sys.executable, "-u", "-c", WRITER, str(self.spool), str(folder)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, cwd=settings.BASE_DIR, **pipes)

    def begin(self, request_id: uuid.UUID, *, tokens: int = 50) -> None:
        """The first frame of a call, with its estimate."""
        self._write(
            OPEN_MARK,
            request_id,
            status="abandoned",
            reason="worker_died",
            http_status=0,
            output_tokens=tokens,
        )

    def end(self, request_id: uuid.UUID, *, tokens: int = 7) -> None:
        """The last frame of a call, with what was true."""
        self._write(b"", request_id, output_tokens=tokens)

    def die(self) -> None:
        """As by kill -9."""
        self.process.kill()
        self.process.communicate()

    def _write(self, mark: bytes, request_id: uuid.UUID, **fields: Any) -> None:
        self.seq += 1
        body = mark + msgspec.json.encode(
            entry(request_id=request_id, spool=self.spool, seq=self.seq, **fields)
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(body.hex().encode() + b"\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == b"done\n"


def rows(ids: Sequence[uuid.UUID]) -> list[tuple[str, int]]:
    found = {record.pk: record for record in UsageRecord.objects.filter(pk__in=ids)}
    return [(found[i].status, found[i].output_tokens) if i in found else ("none", 0) for i in ids]


def test_a_call_is_abandoned_when_its_worker_is_dead_and_not_before(tmp_path: Path) -> None:
    ended, opened = uuid7(), uuid7()
    owner, shipper = Owner(tmp_path), Shipper(tmp_path)
    owner.begin(ended)
    owner.begin(opened)
    owner.end(ended)
    assert shipper.ship_all() == 1
    assert rows([ended, opened]) == [("completed", 7), ("none", 0)]
    owner.die()
    assert shipper.ship_all() == 1
    assert rows([ended, opened]) == [("completed", 7), ("abandoned", 50)]
    assert list(tmp_path.iterdir()) == []


def test_a_new_shipper_knows_the_open_calls_of_its_predecessor(tmp_path: Path) -> None:
    opened, others = uuid7(), [uuid7() for _ in range(150)]
    owner = Owner(tmp_path)
    owner.begin(opened)
    for other in others:
        owner.begin(other)
        owner.end(other)
    Shipper(tmp_path, kept_s=0).ship_all()
    kept = {path.name for path in tmp_path.glob("*.spool")}
    assert segment_name(owner.spool, 0) in kept, "it tells of the open call"
    assert segment_name(owner.spool, 1) not in kept, "what holds nothing any more is removed"
    owner.die()
    assert Shipper(tmp_path).ship_all() == 1
    assert rows([opened]) == [("abandoned", 50)]
    assert set(rows(others)) == {("completed", 7)}
    assert list(tmp_path.iterdir()) == []


def test_an_end_that_lay_in_a_segment_that_is_gone_still_counts(tmp_path: Path) -> None:
    long, still_open, others = uuid7(), uuid7(), [uuid7() for _ in range(150)]
    owner = Owner(tmp_path)
    owner.begin(still_open)  # keeps the first segment
    owner.begin(long)
    for number, other in enumerate(others):
        owner.begin(other)
        owner.end(other)
        if number == 60:
            owner.end(long)
    Shipper(tmp_path, kept_s=0).ship_all()
    owner.die()
    Shipper(tmp_path).ship_all()
    assert rows([long, still_open]) == [("completed", 7), ("abandoned", 50)]
    assert not QuarantinedFrame.objects.filter(spool=owner.spool).exists()


def test_a_shipper_that_dies_before_it_tidies_up_changes_nothing_the_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = uuid7()
    owner = Owner(tmp_path)
    owner.begin(opened)
    owner.die()
    with monkeypatch.context() as broken:
        broken.setattr(Shipper, "_retire_segments", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Shipper(tmp_path).ship_all()
    assert rows([opened]) == [("abandoned", 50)]
    Shipper(tmp_path).ship_all()
    assert rows([opened]) == [("abandoned", 50)]
    assert not QuarantinedFrame.objects.filter(spool=owner.spool).exists()
    assert list(tmp_path.iterdir()) == []


def test_abandoned_calls_are_numbered_behind_the_last_frame_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, ended = [uuid7() for _ in range(5)], uuid7()
    owner = Owner(tmp_path)
    for request_id in opened:
        owner.begin(request_id)
    owner.begin(ended)
    owner.end(ended)
    owner.die()
    shipped: list[int] = []

    def ship_one_batch(spool: uuid.UUID, host: str, frames: list[Frame]) -> None:
        if len(shipped) > 3:
            raise KeyboardInterrupt
        shipped.extend(frame.seq for frame in frames)
        ship_frames(spool, host, frames)

    with monkeypatch.context() as broken:
        broken.setattr("billing.shipper.ship_frames", ship_one_batch)
        with pytest.raises(KeyboardInterrupt):
            Shipper(tmp_path, batch_frames=2).ship_all()
    assert shipped == [7, 8, 9, 10, 11]
    assert rows(opened)[-1] == ("none", 0), "it died before the last"
    Shipper(tmp_path, batch_frames=2).ship_all()
    numbers = UsageRecord.objects.filter(spool=owner.spool).order_by("seq").values_list("pk", "seq")
    assert list(numbers) == [(ended, 7), *zip(opened, range(8, 13), strict=True)]
    assert read_watermark(owner.spool) == 12
    assert not QuarantinedFrame.objects.filter(spool=owner.spool).exists()


def test_shipped_segments_stay_for_a_while_unless_room_is_needed(tmp_path: Path) -> None:
    owner, shipper = Owner(tmp_path), Shipper(tmp_path)
    for _ in range(100):
        request_id = uuid7()
        owner.begin(request_id)
        owner.end(request_id)
    shipper.ship_all()
    written = len(list(tmp_path.glob("*.spool")))
    assert written > 2
    Shipper(tmp_path, max_bytes=20 * written * 65536).ship_all()
    assert len(list(tmp_path.glob("*.spool"))) == written
    Shipper(tmp_path, max_bytes=65536).ship_all()
    assert len(list(tmp_path.glob("*.spool"))) == 1
    owner.die()


def test_an_entry_of_the_release_before_stands_for_one_request(tmp_path: Path) -> None:
    request_id, spool = uuid7(), uuid.uuid4()
    body = msgspec.json.decode(msgspec.json.encode(entry(request_id=request_id, spool=spool, seq=1)))
    del body["requests"]
    ship_frames(spool, "host", [Frame(1, msgspec.json.encode(body), end=0)])
    assert UsageRecord.objects.get(pk=request_id).requests == 1


def hang(product: Product, caller: Caller, route: Route, marker: str, **fields: Any) -> None:
    """A call that its worker does not live to answer."""
    with pytest.raises(httpx.TransportError):
        route.ask(product, caller, headers={"X-Client-Request-Id": marker}, **fields)


def test_calls_in_flight_of_a_killed_worker_are_in_the_ledger_at_their_estimate(
    processes: Processes, product: Product, simulator: Simulator
) -> None:
    own = processes.start_product(with_shipper=False)  # the other product's shipper adopts its spool
    caller = make_caller(simulator.base_url, own)
    threads = []
    for route, stream in WAYS:
        fields: dict[str, Any] = {"stream": True} if stream else {}
        marker = unique("killed")
        fields |= {"simulator": {"hang": True}} | ({} if route is EMBEDDINGS else {"max_tokens": 40})
        threads.append(
            (marker, threading.Thread(target=hang, args=(own, caller, route, marker), kwargs=fields))
        )
    for _, thread in threads:
        thread.start()
    wait_for(lambda: simulator.open_calls() >= len(WAYS), "all calls to be under way")
    os.kill(own.web.pid, signal.SIGKILL)
    for _, thread in threads:
        thread.join()
    for (marker, _), (route, stream) in zip(threads, WAYS, strict=True):
        mine = UsageRecord.objects.filter(client_request_id=marker)
        (record,) = wait_for(mine.all, marker)
        assert (record.status, record.reason, record.attempts) == ("abandoned", "worker_died", 1)
        assert (record.estimated, record.streamed, record.http_status) == (True, stream, 0)
        assert record.output_tokens == (0 if route is EMBEDDINGS else 40)
        assert record.cost_nanousd == record.input_tokens * 150 + record.output_tokens * 600
        assert 10 <= record.input_tokens <= 150
