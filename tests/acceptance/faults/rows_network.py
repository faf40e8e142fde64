"""Rows 9 to 13: a Redis that does not answer, and a network between it and everybody else that breaks."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from scheduler.service.dispatch import CLAIM_GRACE_MS

from .load import Load
from .network import SLOTS, WORK, again_and_again, everywhere, links, part, under_way
from .proxy import TO_CLIENT, TO_SERVER
from .rig import HERE, KINDS, Rig, eventually
from .rows import RigFactory, Verdict, row
from .watch import computed_seconds, given_up, reconnected, slowest

NOTICED_SECONDS = 15.0
DISPATCH_DEADLINE_SECONDS = WORK.target_wait_seconds + CLAIM_GRACE_MS / 1000
"""How long a message may stay unclaimed before it is looked for."""

# -- 9: Redis does not answer ---------------------------------------------------------------------------


def frozen(rigs: RigFactory, seconds: float, most_duplicates: int) -> Verdict:
    """SIGSTOP to Redis with the load under way; leases are those of the shipped classes, 20 s."""
    with rigs(settings={"CELERIAC_QUEUES_FILE": str(HERE / "queues_long.toml")}) as rig:
        rig.start_all()
        loads = rig.submit_base()
        under_way(rig)
        rig.redis.freeze()
        time.sleep(seconds)  # the fault itself
        rig.redis.thaw()
        rig.wait(loads, 180)
        return rig.judge(loads, most_duplicates=most_duplicates)


@row(9, "Redis frozen 3 s")
def row_9_3(rigs: RigFactory, seed: int) -> Verdict:
    """Nobody loses anything."""
    return frozen(rigs, 3, 0)


@row(9, "Redis frozen 10 s, half a lease")
def row_9_10(rigs: RigFactory, seed: int) -> Verdict:
    """Nobody loses anything."""
    return frozen(rigs, 10, 0)


@row(9, "Redis frozen 40 s, two leases")
def row_9_40(rigs: RigFactory, seed: int) -> Verdict:
    """What ran has lost its lease and runs again, and nothing else does."""
    return frozen(rigs, 40, SLOTS)


# -- 10, 11: connections reset, connections refused -----------------------------------------------------


@row(10, "every connection reset every 5 s", fast=True)
def row_10(rigs: RigFactory, seed: int) -> Verdict:
    """Until the last run has ended."""
    with rigs(proxied=KINDS) as rig:
        rig.start_all()
        loads = rig.submit_base()
        cuts = again_and_again(rig, loads, lambda: everywhere(rig, "cut"))
        return rig.judge(loads, most_duplicates=part(rig, loads, 2), notes={"cuts": cuts})


@row(11, "connections refused for 30 s")
def row_11(rigs: RigFactory, seed: int) -> Verdict:
    """Nobody spins, nobody floods the log, and everybody is back at work within 10 s."""
    with rigs(proxied=KINDS) as rig:
        rig.start_all()
        loads = rig.submit_base()
        under_way(rig)
        everywhere(rig, "down")
        time.sleep(5)  # what ran may end
        names = [*rig.schedulers, *rig.workers]
        before = {name: computed_seconds(rig.pid(name)) for name in names}
        said = {name: records(rig, name) for name in names}
        time.sleep(25)  # the fault itself
        busy = {name: (computed_seconds(rig.pid(name)) - before[name]) / 25 for name in names}
        lines = {name: records(rig, name) - said[name] for name in names}
        back = reconnected(links(rig), lambda: everywhere(rig, "up"), 30)
        up_at = time.monotonic()
        pids = {rig.pid(name) for name in rig.workers}
        rig.wait(loads, 180)
        first = {pid: [it.at - up_at for it in rig.ledger() if it.pid == pid and it.at > up_at][:1] for pid in pids}
        notes = {"busiest": max(busy.values()), "log records": max(lines.values()), "back": slowest(back, links(rig))}
        verdict = rig.judge(loads, most_duplicates=part(rig, loads, 2), notes=notes)
        verdict.must(max(busy.values()) < 0.10, f"somebody spins while refused: {busy}")
        verdict.must(max(lines.values()) <= 75, f"somebody floods the log while refused: {lines}")
        verdict.must(
            back.keys() == links(rig).keys() and max(back.values()) <= 10,
            f"not everybody was back in 10 s: {slowest(back, links(rig))}",
        )
        verdict.must(all(first.values()), f"a worker has done nothing since: {first}")
        return verdict


def records(rig: Rig, name: str) -> int:
    """How many records a process has logged; a record may have many lines."""
    return len(re.findall(r"(?m)^\[?20[0-9]{2}-", rig.says(name)))


# -- 12, 13: nobody is told that the connection has gone ------------------------------------------------


def half_open(rigs: RigFactory, verb: str, *args: str) -> Verdict:
    """20 s during which bytes vanish, or stand still; every process gives its connections up long before."""
    with rigs(proxied=KINDS) as rig:
        rig.start_all()
        loads = rig.submit_base()
        under_way(rig)
        expected = links(rig)
        began = time.monotonic()
        noticed = given_up(expected, lambda: everywhere(rig, verb, *args), 20)
        time.sleep(max(0.0, began + 20 - time.monotonic()))  # the rest of the fault
        everywhere(rig, "thaw")
        rig.wait(loads, 180)
        verdict = rig.judge(loads, most_duplicates=SLOTS, notes={"noticed": slowest(noticed, expected)})
        verdict.must(
            noticed.keys() == expected.keys() and max(noticed.values()) <= NOTICED_SECONDS,
            f"half-open connections were not noticed in {NOTICED_SECONDS} s: {slowest(noticed, expected)}",
        )
        return verdict


@row(12, "half-open: nothing reaches Redis")
def row_12_to_server(rigs: RigFactory, seed: int) -> Verdict:
    """Commands vanish."""
    return half_open(rigs, "drop", TO_SERVER)


@row(12, "half-open: no answer comes back")
def row_12_to_client(rigs: RigFactory, seed: int) -> Verdict:
    """Commands are done, answers vanish."""
    return half_open(rigs, "drop", TO_CLIENT)


@row(12, "half-open: both ways")
def row_12_both(rigs: RigFactory, seed: int) -> Verdict:
    """As when a cable is pulled."""
    return half_open(rigs, "drop")


@row(12, "the network stands still")
def row_12_freeze(rigs: RigFactory, seed: int) -> Verdict:
    """And delivers everything when nobody listens any more."""
    return half_open(rigs, "freeze")


@row(13, "old connections silent for good")
def row_13(rigs: RigFactory, seed: int) -> Verdict:
    """Messages that are lost on them are sent again when they are overdue; each worker loses one that it just took."""
    with rigs(proxied=KINDS) as rig:
        rig.start_all()
        loads = rig.submit_base()
        under_way(rig)
        expected = links(rig)
        noticed = given_up(expected, lambda: _silence(rig), 20)
        rig.wait(loads, 180)
        lost = overdue_seconds(rig, loads)
        notes = {
            "noticed": slowest(noticed, expected),
            "messages lost": len(lost),
            "longest overdue": max(lost, default=0.0),
        }
        verdict = rig.judge(loads, most_duplicates=SLOTS, notes=notes)
        most = DISPATCH_DEADLINE_SECONDS + NOTICED_SECONDS
        verdict.must(len(lost) > 0, "no message was lost: the row proved nothing")
        verdict.must(max(lost, default=0.0) <= most, f"a lost message was missed only after {max(lost, default=0)} s")
        return verdict


def _silence(rig: Rig) -> None:
    """All connections go silent for good, those of the workers to their broker while a message is on its way."""
    taken = rig.proxies["broker"].deafreply(len(rig.workers), b"BRPOP")
    eventually(lambda: taken.cut == len(rig.workers), "each worker's message is on its way")
    everywhere(rig, "deaf")


def overdue_seconds(rig: Rig, loads: Sequence[Load]) -> list[float]:
    """For each attempt that was sent and never begun: how long until that was noticed."""
    found = []
    for load in loads:
        for view in rig.client().run(load.id).nodes():
            found += [
                (it.ended_at_ms - it.dispatched_at_ms) / 1000
                for it in view.tries
                if it.dispatched_at_ms and it.ended_at_ms and not it.claimed_at_ms
            ]
    return found
