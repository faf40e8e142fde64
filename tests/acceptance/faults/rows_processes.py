"""Rows 1 to 8: processes that are killed, one kind at a time and all together."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence

from scheduler.store.owners import Owners
from scheduler.wire import RunId, shard_of

from . import ledger, recovery
from .killer import CHILD, REDIS, Killer
from .load import Load, ended, random_plan, submit
from .rig import Rig, eventually
from .rows import RigFactory, Verdict, row

LEASE = 5.0
"""Of attempts (queues.toml) and of shards (the rig's environment), s."""
SLOTS = 6
"""Of a worker of the class `work`."""
SHARDS = 16


@row(1, "nothing is broken", fast=True)
def row_1(rigs: RigFactory, seed: int) -> Verdict:
    """Every node runs once."""
    with rigs() as rig:
        rig.start_all()
        loads = rig.submit_base()
        rig.wait(loads, 120)
        return rig.judge(loads, most_duplicates=0)


@row(2, "scheduler kill -9 every 2-5 s", fast=True)
def row_2(rigs: RigFactory, seed: int) -> Verdict:
    """The other scheduler takes the shards when the lease ends; nothing is sent twice that had been claimed."""
    with rigs() as rig:
        rig.start_all()
        loads = rig.submit_base()
        owned: dict[int, list[str]] = {}
        killer = Killer(rig, rig.schedulers, every=(2, 5), before=lambda name: _note_owned(rig, name, loads, owned))
        killer.until(lambda: ended(loads), 180)
        return rig.judge(
            loads,
            most_duplicates=sum(len(it.plan.upstream) for it in loads) // 100,
            notes={"kills": len(rig.kills), "shards sent again": recovery.told(_sent_again(rig, loads, owned))},
        )


@row(2, "scheduler asked to stop, every 2-5 s")
def row_2_asked(rigs: RigFactory, seed: int) -> Verdict:
    """SIGTERM: the shards are handed over at once, and nothing runs twice."""
    with rigs() as rig:
        rig.start_all()
        loads = rig.submit_base()
        owned: dict[int, list[str]] = {}
        killer = Killer(
            rig,
            rig.schedulers,
            every=(2, 5),
            how=signal.SIGTERM,
            before=lambda name: _note_owned(rig, name, loads, owned),
        )
        killer.until(lambda: ended(loads), 180)
        again = _sent_again(rig, loads, owned)
        verdict = rig.judge(
            loads, most_duplicates=0, notes={"stops": len(rig.kills), "shards sent again": recovery.told(again)}
        )
        verdict.must(all(it < LEASE for it in again), f"a hand-over took as long as a lease: {max(again, default=0)} s")
        return verdict


@row(3, "all schedulers down for 30 s")
def row_3(rigs: RigFactory, seed: int) -> Verdict:
    """Workers finish what they hold, and their reports wait; the schedulers go on from there."""
    down = 30.0
    with rigs() as rig:
        rig.start_all()
        loads = rig.submit_base()
        eventually(lambda: len(rig.ledger()) > rig.nodes // 2, "a part of the work is done")
        at = max(rig.kill(name) for name in rig.schedulers)
        time.sleep(down)  # the fault
        lines = rig.ledger()
        unfinished = sum(1 if line.what == ledger.START else -1 for line in lines)
        again_at = time.monotonic()
        for name in rig.schedulers:
            rig.again(name)
        rig.wait(loads, 120)
        verdict = rig.judge(
            loads,
            most_duplicates=sum(len(it.plan.upstream) for it in loads) // 100,
            notes={
                "ran while down": sum(line.at > at and line.what == ledger.START for line in lines),
                "first start after": recovery.told(recovery.next_start(rig.ledger(), [again_at])),
            },
        )
        verdict.must(not unfinished, f"{unfinished} attempts did not come to their end while no scheduler ran")
        return verdict


@row(4, "worker kill -9 every 3-8 s", fast=True)
def row_4(rigs: RigFactory, seed: int) -> Verdict:
    """What a killed worker had begun runs again elsewhere within its lease and 5 s."""
    with rigs() as rig:
        rig.start_all()
        loads = rig.submit_base()
        Killer(rig, rig.workers, every=(3, 8), down=(0, 2)).until(lambda: ended(loads), 180)
        lines = rig.ledger()
        again = recovery.reruns(lines, rig.kills)
        verdict = rig.judge(
            loads,
            most_duplicates=SLOTS * len(rig.kills),
            notes={
                "kills": len(rig.kills),
                "cut short": recovery.cut_short(lines, rig.kills),
                "begun again": recovery.told(again),
            },
        )
        late = [round(it, 1) for it in again if it > LEASE + 5]
        verdict.must(not late, f"begun again more than {LEASE + 5} s after the kill: {late}")
        return verdict


@row(5, "pool child kill -9", fast=True)
def row_5(rigs: RigFactory, seed: int) -> Verdict:
    """The worker notices and reports it within 5 s; the worker itself lives on."""
    with rigs(workers=2) as rig:
        rig.start_all()
        heavy = ["h1", "h2"]
        for name in heavy:
            rig.worker(name, "heavy")
        rig.await_workers(len(rig.workers) + len(heavy))
        loads = rig.submit_base(runs=1)
        plan = random_plan(rig.random, 400, ms=(50, 500))
        loads.append(submit(rig.client(), plan, 300, queue_class="heavy"))
        Killer(rig, [CHILD + name for name in heavy], every=(1, 2)).until(lambda: ended(loads), 180)
        lines = rig.ledger()
        verdict = rig.judge(
            loads,
            most_duplicates=len(rig.kills),
            notes={
                "kills": len(rig.kills),
                "cut short": recovery.cut_short(lines, rig.kills),
                "begun again": recovery.told(recovery.reruns(lines, rig.kills)),
            },
        )
        noticed = _noticed(loads[-1], lines, rig)
        verdict.facts["noticed"] = recovery.told(noticed)
        verdict.must(
            all(it <= 5 for it in noticed), f"a lost pool process was noticed after {max(noticed, default=0)} s"
        )
        verdict.must(bool(noticed), "no kill hit a running attempt, so nothing was tested")
        for name in heavy:
            verdict.must(rig.alive(name), f"worker {name} did not live on")
        return verdict


@row(6, "scheduler, worker and Redis kill -9 together, at random")
def row_6(rigs: RigFactory, seed: int) -> Verdict:
    """Any of them, several at once, down for up to 3 s: the runs end as if nothing had happened."""
    with rigs() as rig:
        rig.start_all()
        loads = rig.submit_base()
        killer = Killer(rig, [*rig.schedulers, *rig.workers, REDIS], every=(2, 6), down=(0, 3), at_once=6)
        killer.until(lambda: ended(loads), 240)
        lines = rig.ledger()
        return rig.judge(
            loads,
            most_duplicates=SLOTS * len(rig.workers) * killer.strikes,
            notes={
                "strikes": killer.strikes,
                "kills": dict(sorted(killer.killed.items())),
                "begun again": recovery.told(recovery.reruns(lines, rig.kills)),
            },
        )


def _note_owned(rig: Rig, name: str, loads: Sequence[Load], owned: dict[int, list[str]]) -> None:
    """Which runs a scheduler writes for, right before its next kill; none if nobody is there to take them over, as
    while the other one still starts.
    """
    pid = f":{rig.pid(name)}:"
    table = Owners(rig.look(), "cel", "a test", 1000).table()
    if all(pid in line.scheduler for line in table.values()):
        return
    owned[len(rig.kills)] = [
        load.id
        for load in loads
        if (line := table.get(shard_of(RunId(load.id), SHARDS))) is not None and pid in line.scheduler
    ]


def _sent_again(rig: Rig, loads: Sequence[Load], owned: Mapping[int, Sequence[str]]) -> list[float]:
    """For each kill of a scheduler: seconds until the runs it wrote for had nodes sent again."""
    client = rig.client()
    sent = {
        load.id: sorted(it.dispatched_at_ms for node in client.run(load.id).nodes() for it in node.tries)
        for load in loads
    }
    return recovery.next_dispatch(
        sent, {rig.kills[at].at_ms: runs for at, runs in owned.items() if at < len(rig.kills)}
    )


def _noticed(load: Load, lines: Sequence[ledger.Line], rig: Rig) -> list[float]:
    """For each attempt cut short in a killed pool process: seconds until the system had recorded the loss."""
    killed = {it.pid: it.at_ms for it in rig.kills}
    done = {(line.node, line.attempt) for line in lines if line.run == load.id and line.what != ledger.START}
    tries = {(node.key, it.attempt): it for node in load.handle.nodes() for it in node.tries}
    return [
        (tries[line.node, line.attempt].ended_at_ms - killed[line.pid]) / 1000
        for line in lines
        if line.run == load.id and line.pid in killed and (line.node, line.attempt) not in done
    ]
