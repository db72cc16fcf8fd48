"""A department with one budget in the database and counters in the store; workers that admit, end and die."""

import os
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from billing.admission.account import Account, Standing
from billing.admission.adoption import Adoption, drive
from billing.admission.commands import Commands, copies_key, plain
from billing.admission.holds import Amounts, Ask, EndFrame
from billing.admission.ledger_view import LedgerView
from billing.admission.links import DirectLink
from billing.admission.rebuild import LEASE_MS, Rebuilder
from billing.admission.rules import Dimensions, RuleBook
from billing.admission.scripts import load_scripts
from billing.admission.spool_frames import SpoolFrames
from billing.ids import uuid7
from billing.keeper import Keeper
from billing.rule_models import Budget
from tests.admission.spools import WrittenSpool
from tests.factories import make_team
from tests.processes import wait_for

LIMIT = 10**12
FAR_MS = 2**50


class Office:
    """Its counters are open from the start."""

    def __init__(self) -> None:
        self.team = make_team()
        Budget.objects.create(team=self.team, unit="money", period="month", amount=LIMIT)
        self.department_id = self.team.department_id
        self.call = Dimensions(self.department_id, self.team.pk, None, None, "ann", "large")
        self.scripts = load_scripts()
        self.commands = Commands(self.scripts)
        self.link = DirectLink(os.environ["REDIS_URL"], self.scripts)
        self.rebuilder = Rebuilder(self.link, self.commands, LedgerView())
        self.hear_everybody()
        self.rebuild()

    def book(self) -> RuleBook:
        return LedgerView().book_of(self.department_id)

    def hear_everybody(self) -> None:
        """As if beats had been heard for a long time."""
        self.link.exchange([self.commands.beat("nobody", LEASE_MS)])
        (run,) = self.ask("HKEYS", "{g}:since")
        self.ask("HSET", "{g}:since", run, "1")
        self.ask("DEL", "{g}:workers")

    def rebuild(self) -> None:
        """A new epoch, which admits. A gateway of another test may be alive: it declares, or the grace passes."""
        lost_in = self.rebuilder.read_marker(self.department_id).n
        assert self.rebuilder.rebuild(self.department_id, lost_in=lost_in)
        wait_for(lambda: self.rebuilder.open_if_declared(self.department_id), "open counters")

    def ask(self, *parts: bytes | str) -> Any:
        (reply,) = self.link.exchange([plain(*parts)])
        return reply

    def epoch(self) -> int:
        return self.rebuilder.read_marker(self.department_id).n

    def counter(self) -> tuple[int, int]:
        """Used and reserved."""
        name = self.book().plan(self.call, int(time.time())).names[0]
        b, u, r = self.ask("HMGET", f"{{d{self.department_id}}}:{self.epoch()}:{name}", "b", "u", "r")
        return int(b or 0) + int(u or 0), int(r or 0)

    def copies(self) -> int:
        return int(self.ask("HLEN", copies_key(self.department_id)))

    def keeper(self) -> Keeper:
        return Keeper(
            DirectLink(os.environ["REDIS_URL"], self.scripts),
            self.commands,
            make_adoption=partial(Adoption, caution_ms=-1_000),
        )


class Worker:
    """Admits calls and ends them; its spool is written when it dies."""

    def __init__(self, office: Office, folder: Path) -> None:
        self.office = office
        self.spool = WrittenSpool(folder)
        self.account = Account(
            office.book(), office.commands, str(self.spool.id), SpoolFrames(folder, self.spool.id)
        )
        self.admitted: dict[uuid.UUID, dict[str, Any]] = {}

    def beat(self) -> None:
        self.office.link.exchange([self.office.commands.beat(str(self.spool.id), LEASE_MS)])

    def open(self) -> None:
        """For a worker whose spool is not written yet: there is nothing that it could have to send."""
        self.account._frames = _Nothing()
        assert self.renew() is Standing.OPEN

    def renew(self) -> Standing:
        return drive(self.office.link, self.account.renew(time.time_ns() // 1_000_000))

    def admit(self, money: int = 100, *, begins: bool = True) -> uuid.UUID:
        """A call that is held, and whose first frame is in the spool if it `begins`."""
        request_id, now_ms = uuid7(), time.time_ns() // 1_000_000
        ask = Ask(str(request_id), self.office.call, Amounts(money, 10))
        plan = self.account.plan(ask, now_ms)
        (reply,) = self.office.link.exchange([self.account.admit(ask, plan, now_ms, FAR_MS)])
        self.account.admitted(ask, plan, reply, FAR_MS)
        call = self.office.call
        self.admitted[request_id] = {
            "request_id": request_id,
            "department_id": call.department_id,
            "team_id": call.team_id,
            "end_user": call.end_user,
            "model": call.model,
        }
        if begins:
            estimate = {"cost_nanousd": money, "output_tokens": 10, "reason": "worker_died"}
            self.spool.begin(**self.admitted[request_id], **estimate)
        return request_id

    def end(self, request_id: uuid.UUID, money: int) -> EndFrame:
        """The last frame is in the spool, but not booked."""
        seq = self.spool.end(**self.admitted[request_id], cost_nanousd=money, output_tokens=5)
        record = self.spool.bodies[-1]
        moment_ms = time.time_ns() // 1_000_000
        frame = EndFrame(seq, str(request_id), moment_ms, self.office.call, Amounts(money, 5), record)
        self.account.end(frame)
        return frame

    def settle(self) -> None:
        drive(self.office.link, self.account.settle())
        assert not self.account.pending

    def die(self) -> None:
        self.spool.write()


class _Nothing:
    def after(self, seq: int, concerns: Callable[[Dimensions], bool]) -> list[EndFrame]:
        return []
