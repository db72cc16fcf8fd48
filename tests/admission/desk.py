"""One department on a real store, for tests of the scripts: readable calls and readable counters."""

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from billing.admission.commands import MOST_USERS, Commands, marker_key, pack
from billing.admission.holds import AT_ONCE, Amounts, Ask, EndFrame, Hold, HoldOwner, Patience
from billing.admission.links import ServerLink, StoreRefused
from billing.admission.rules import Dimensions, Plan, Rule, RuleBook
from billing.admission.scripts import Scripts, load_scripts, make_scripts, read_sources

DONE, NOTHING, KNOWN = 1, 0, 2
LATE, OTHER_EPOCH, LOST_COUNTER, OTHER_WINDOW, HARD, HELD, RATE, GAP, CHANGED, OTHER_USER = range(-1, -11, -1)
NEVER = 2**50

_departments = itertools.count(os.getpid() * 10_000)
CLOCK = "{clock}"
_TIME = "redis.call('TIME')"


def scripts_on_a_clock(sources: Mapping[str, str] | None = None) -> Scripts:
    """The scripts, but on a clock that a test sets: the hash `{clock}` instead of the server's."""
    given = read_sources() if sources is None else sources
    return make_scripts(
        {
            name: text.replace(_TIME, f"redis.call('HMGET', '{CLOCK}', 's', 'us')")
            for name, text in given.items()
        }
    )


def without_rule(sources: Mapping[str, str], rule: str) -> dict[str, str]:
    """The scripts with the lines of one rule taken out; at least one must have been there."""
    mark = f"-- rule: {rule}"
    kept = {
        name: "\n".join(line for line in text.split("\n") if not line.endswith(mark))
        for name, text in sources.items()
    }
    assert kept != dict(sources), f"no script has a rule {rule!r}"
    return kept


@dataclass
class Desk:
    """A department of its own in the store at `url`, on a clock of its own if it is given one (ms)."""

    url: str
    rules: tuple[Rule, ...] = ()
    now_ms: int | None = None
    sources: Mapping[str, str] | None = None
    department_id: int = field(default_factory=lambda: next(_departments))
    epoch: int = 1
    planned_s: int | None = None  # for which moment plans are made, if not for now
    most_users: int = MOST_USERS

    def __post_init__(self) -> None:
        scripts = load_scripts() if self.now_ms is None else scripts_on_a_clock(self.sources)
        self.link = ServerLink(self.url, scripts)
        self.commands = Commands(scripts, most_users=self.most_users)
        self.call = Dimensions(self.department_id, 5, 3, 2, "ann", "large")
        self.book = RuleBook(self.department_id, self.epoch, ZoneInfo("UTC"), self.rules)
        if self.now_ms is not None:
            self.set_clock(self.now_ms)

    def set_clock(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.raw("HSET", CLOCK, "s", str(now_ms // 1000), "us", str(now_ms % 1000 * 1000))

    def time_ms(self) -> int:
        if self.now_ms is not None:
            return self.now_ms
        seconds, micros = self.raw("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    def raw(self, *words: str | bytes) -> Any:
        (reply,) = self.link.send(pack(*words), 1)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def run(self, script: str, *arguments: Any) -> Any:
        (reply,) = self.link.exchange(
            [self.commands.call(script, marker_key(self.department_id), *arguments)]
        )
        return reply

    def open_epoch(self) -> None:
        """A rebuild of nothing."""
        assert self.run("begin", self.epoch, "nonce")[0] == DONE
        assert self.run("commit", "nonce", 0, 0, 0)[0] == DONE
        assert self.run("ready", "nonce")[0] == DONE

    def plan(self) -> Plan:
        moment_s = self.time_ms() // 1000 if self.planned_s is None else self.planned_s
        return self.book.plan(self.call, moment_s)

    def owner(self, worker: str = "w1") -> bytes:
        return msgspec.json.encode(HoldOwner(worker, NEVER, self.call))

    def admit(
        self,
        rid: str,
        money: int = 10,
        tokens: int = 10,
        *,
        rate: int = 0,
        not_after: int = NEVER,
        patience: Patience = AT_ONCE,
        team: int = 5,
    ) -> Any:
        ask, plan = self.ask(rid, money, tokens, rate, team)
        (reply,) = self.link.exchange(
            [self.commands.admit(self.epoch, ask, plan, self.owner(), not_after, patience)]
        )
        return reply

    def leave(
        self,
        rid: str,
        money: int = 10,
        tokens: int = 10,
        *,
        rate: int = 0,
        patience: Patience = AT_ONCE,
        team: int = 5,
    ) -> Any:
        ask, plan = self.ask(rid, money, tokens, rate, team)
        (reply,) = self.link.exchange([self.commands.leave(self.epoch, ask, plan, patience)])
        return reply

    def ask(self, rid: str, money: int, tokens: int, rate: int, team: int) -> tuple[Ask, Plan]:
        call = msgspec.structs.replace(self.call, team_id=team)
        moment_s = self.time_ms() // 1000 if self.planned_s is None else self.planned_s
        return Ask(rid, call, Amounts(money, tokens), rate), self.book.plan(call, moment_s)

    def settle(
        self,
        seq: int,
        rid: str,
        money: int,
        tokens: int = 0,
        *,
        before: int = 0,
        not_before: int = 0,
        spool: str = "s1",
        record: bytes = b"",
    ) -> Any:
        frame = EndFrame(seq, rid, 0, self.call, Amounts(money, tokens), record)
        (reply,) = self.link.exchange(
            [
                self.commands.settle(
                    self.epoch, self.department_id, spool, before, frame, self.plan(), not_before
                )
            ]
        )
        return reply

    def declare(self, rid: str, money: int, tokens: int = 0, *, not_after: int = NEVER) -> Any:
        hold = Hold(Ask(rid, self.call, Amounts()), self.time_ms(), Amounts(money, tokens), self.owner())
        command = self.commands.declare(self.epoch, self.department_id, hold, self.plan(), not_after)
        (reply,) = self.link.exchange([command])
        return reply

    def extend(self, rid: str, held: Amounts, more: Amounts, *, step: int = 0, not_after: int = NEVER) -> Any:
        hold = Hold(Ask(rid, self.call, Amounts()), 0, held, b"", step)
        (reply,) = self.link.exchange([self.commands.extend(self.epoch, hold, more, not_after)])
        return reply

    def sweep(self, rid: str, money: int, tokens: int = 0, *, age: int = 0) -> Any:
        return self.run("sweep", rid, money, tokens, age, self.epoch)

    def keys(self, pattern: str) -> list[bytes]:
        """Keys of the present epoch."""
        found: list[bytes] = self.raw("KEYS", self.key(pattern))
        return found

    def key(self, name: str) -> str:
        return f"{{d{self.department_id}}}:{self.epoch}:{name}"

    def counter(self, place: int = 0) -> tuple[int, int, int]:
        """b, u and r of the counter of the rule at `place`."""
        got = self.raw("HMGET", self.key(self.plan().names[place]), "b", "u", "r")
        b, u, r = (int(value or 0) for value in got)
        return b, u, r

    def everything(self) -> dict[bytes, Any]:
        """Every key of the department and its value: to see that nothing changed."""
        found: dict[bytes, Any] = {}
        for key in self.raw("KEYS", f"{{d{self.department_id}}}:*"):
            kind = self.raw("TYPE", key)
            reads = {
                b"hash": ("HGETALL",),
                b"set": ("SMEMBERS",),
                b"string": ("GET",),
                b"list": ("LRANGE", "0", "-1"),
            }
            if kind == b"zset":
                found[key] = self.raw("ZRANGE", key, "0", "-1", "WITHSCORES")
            else:
                word, *rest = reads[kind]
                value = self.raw(word, key, *rest)
                found[key] = sorted(value) if kind == b"set" else value
        return found

    def delete(self) -> None:
        for key in self.raw("KEYS", f"{{d{self.department_id}}}:*"):
            self.raw("DEL", key)
        self.link.close()


def is_error(reply: Any) -> bool:
    return isinstance(reply, StoreRefused)
