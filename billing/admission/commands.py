"""Calls of the scripts as they go over the wire. A call lacks only the run id, which its connection adds."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from billing.admission.holds import AT_ONCE, Amounts, Ask, EndFrame, Hold, Patience
from billing.admission.rules import Plan
from billing.admission.scripts import Scripts

RUN_ID_BYTES = 40
LEASES = b"{g}:workers"
MOST_USERS = 100_000


@dataclass(frozen=True, slots=True)
class Command:
    """One call of a script, without the run id that follows `body`; `key` says which server of a cluster has it."""

    script: str
    body: bytes
    key: bytes

    def packed(self, run: bytes) -> bytes:
        """The bytes to send on a connection to the server whose run id is `run`."""
        return b"%b$%d\r\n%b\r\n" % (self.body, RUN_ID_BYTES, run)


class PlainCommand(Command):
    """A command of the store's own, which takes no run id."""

    __slots__ = ()

    def packed(self, run: bytes) -> bytes:
        """The bytes to send."""
        return self.body


def plain(*parts: bytes | str, key: bytes | None = None) -> PlainCommand:
    """An ordinary command, for an exchange. Its key is what follows its name, or `key`; b"" for none."""
    if key is None:
        key = parts[1] if isinstance(parts[1], bytes) else parts[1].encode()
    return PlainCommand("", pack(*parts), key)


class Commands:
    """Makes the calls of one set of scripts."""

    def __init__(self, scripts: Scripts, *, most_users: int = MOST_USERS) -> None:
        """`most_users`: how many end users of one key may have counters of their own in a day."""
        self.scripts = scripts
        self._most_users = most_users

    def admit(
        self,
        epoch: int,
        ask: Ask,
        plan: Plan,
        owner: bytes,
        not_after_ms: int,
        patience: Patience = AT_ONCE,
    ) -> Command:
        """Reserve for one call, by `plan`, unless the store's clock is past `not_after_ms`. A call of some patience
        that is refused for now stands in the queues of the rules that refuse it for the next two seconds."""
        return self.call(
            "admit",
            marker_key(ask.call.department_id),
            *(ask.rid, not_after_ms, ask.most.money, ask.most.tokens, ask.rate_tokens),
            *(plan.start, plan.end, owner, plan.entries),
            *(ask.call.team_id, patience.weight, patience.places),
            *(f"{self._most_users} {plan.user}" if plan.user else b"", epoch),
        )

    def leave(self, epoch: int, ask: Ask, plan: Plan, patience: Patience) -> Command:
        """Give up the places of a call that waited."""
        return self.call(
            "leave",
            marker_key(ask.call.department_id),
            *(ask.rid, ask.call.team_id, patience.weight, ask.most.money, ask.most.tokens, ask.rate_tokens),
            *(plan.entries, epoch),
        )

    def declare(self, epoch: int, department_id: int, hold: Hold, plan: Plan, not_after_ms: int) -> Command:
        """Reserve again, in a new epoch, what an open call holds."""
        return self.call(
            "declare",
            marker_key(department_id),
            *(hold.ask.rid, not_after_ms, hold.admitted_ms, hold.amounts.money, hold.amounts.tokens),
            *(hold.ask.rate_tokens, hold.step, hold.owner, plan.entries, epoch),
        )

    def extend(self, epoch: int, hold: Hold, more: Amounts, not_after_ms: int) -> Command:
        """Reserve `more` for an open call, as its next step."""
        then = hold.amounts + more
        return self.call(
            "extend",
            marker_key(hold.ask.call.department_id),
            *(hold.ask.rid, not_after_ms, hold.step + 1, hold.amounts.money, hold.amounts.tokens),
            *(more.money, more.tokens, then.money, then.tokens, epoch),
        )

    def settle(
        self,
        epoch: int,
        department_id: int,
        spool: str,
        before: int,
        frame: EndFrame,
        plan: Plan,
        not_before: int,
    ) -> Command:
        """Book a frame; `before` is the number of the department's frame before it in this spool."""
        return self.call(
            "settle",
            marker_key(department_id),
            *(spool, before, frame.seq, frame.rid, not_before, frame.true.money, frame.true.tokens),
            *(plan.entries, frame.record, epoch),
        )

    def status(self, department_id: int, spool: str = "") -> Command:
        """The marker of a department, and how far `spool` is booked."""
        return self.call("status", marker_key(department_id), spool)

    def acknowledge(self, epoch: int, department_id: int, worker: str) -> Command:
        """A worker has declared its open calls and sent its frames again."""
        return self.call("acknowledge", marker_key(department_id), worker, epoch)

    def beat(self, worker: str, lease_ms: int) -> Command:
        """A worker lives, for `lease_ms` more."""
        return self.call("beat", LEASES, worker, lease_ms)

    def living(self, grace_ms: int = 0) -> Command:
        """The workers whose lease lapsed no longer ago than `grace_ms`."""
        return self.call("living", LEASES, grace_ms)

    def call(self, script: str, key: bytes, *arguments: bytes | str | int) -> Command:
        """A call of `script` on the keys of the marker `key`."""
        flat: list[int | bytes] = [len(arguments) + 5, self.scripts[script].sha, len(key), key]
        for argument in arguments:
            if isinstance(argument, int):
                argument = b"%d" % argument
            elif isinstance(argument, str):
                argument = argument.encode()
            flat += (len(argument), argument)
        return Command(script, _form(len(arguments)) % tuple(flat), key)


@cache
def _form(arguments: int) -> bytes:
    """What a call of so many arguments is formatted with, all at once: a call of each part costs more."""
    head = b"*%d\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n1\r\n$%d\r\n%b\r\n"
    return head + b"$%d\r\n%b\r\n" * arguments


def marker_key(department_id: int) -> bytes:
    """The marker of a department, whose tag all its keys share."""
    return b"{d%d}:e" % department_id


def copies_key(department_id: int) -> bytes:
    """The final records of a department that are booked, but not known to be in the ledger yet."""
    return b"{d%d}:s" % department_id


def pack(*parts: bytes | str) -> bytes:
    """An ordinary command in the store's protocol."""
    words = [part if isinstance(part, bytes) else part.encode() for part in parts]
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


@dataclass(frozen=True, slots=True)
class Marker:
    """What STATUS says: the epoch of a department's counters and its state, at the store's `time_ms`.

    `n` is 0 where there is none. It holds only for the server's run it was made in. `booked` is the last number of
    the spool that was asked for.
    """

    time_ms: int
    n: int
    is_of_this_run: bool
    state: str
    nonce: str
    began_ms: int
    committed_ms: int
    booked: int
    acknowledged: frozenset[str]

    @property
    def is_whole(self) -> bool:
        """Whether the counters hold what the ledger said; workers may have to declare yet."""
        return self.n > 0 and self.is_of_this_run and self.state in (DECLARING, READY)


REBUILDING, DECLARING, READY = "rebuilding", "declaring", "ready"


def read_marker(reply: list[Any]) -> Marker:
    """The reply to STATUS."""
    time_ms, n, same_run, state, nonce, began, committed, booked, workers = reply
    return Marker(
        time_ms=time_ms,
        n=n,
        is_of_this_run=same_run == 1,
        state=state.decode(),
        nonce=nonce.decode(),
        began_ms=began,
        committed_ms=committed,
        booked=booked,
        acknowledged=frozenset(worker.decode() for worker in workers),
    )
