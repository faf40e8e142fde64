"""Rows 16 and 17: a process that loses time, and clocks that jump."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Container, Sequence
from datetime import UTC, datetime
from typing import Any

from scheduler import Graph, Retry, RunHandle
from scheduler.settings import read_queues

from . import ledger
from .rig import HERE, ROOT, Rig, eventually
from .rows import RigFactory, Verdict, row

LEASE_SECONDS = read_queues(HERE / "queues.toml")["work"].lease_seconds
HOUR = 3600
LONG, PATIENT = "faults.long", "faults.patient"
"""Executors of app_timers.py, which only a worker can import."""
_LATE = re.compile(r"'late': (\d+)")


@row(16, "worker stopped for two leases")
def row_16(rigs: RigFactory, seed: int) -> Verdict:
    """As a VM is, or a process that collects garbage. What it did is too late: refused, counted, without effect."""
    with rigs() as rig:
        rig.start_all()
        loads = rig.submit_base()
        eventually(lambda: len(rig.ledger()) > rig.nodes // 8, "the load is under way")
        pid = rig.pid("w1")
        rig.freeze("w1")
        before = rig.ledger()
        time.sleep(2 * LEASE_SECONDS)  # the fault itself
        thawed_at = rig.thaw("w1")
        rig.wait(loads, 120)
        lines = rig.ledger()
        lost = {
            (it.id, node.key, tried.attempt)
            for it in loads
            for node in it.handle.nodes()
            for tried in node.tries
            if tried.end == "lost"
        }
        held = held_when_stopped(before, lines, pid, lost)
        running = held["running"]
        ended_too_late = [it for it in lines if it.pid == pid and it.what != ledger.START and it.at > thawed_at]
        notes = {f"{where} when stopped": number for where, number in held.items()}
        verdict = rig.judge(loads, most_duplicates=sum(held.values()), notes=notes)
        late = sum(late_reports(rig, name) for name in rig.schedulers)
        verdict.facts["late reports"] = late
        verdict.must(running > 0, "nothing ran when the worker was stopped: the row shows nothing")
        verdict.must(
            not running or (bool(ended_too_late) and late >= verdict.duplicates > 0),
            f"{verdict.duplicates} attempts ran again, and {late} late reports were counted",
        )
        return verdict


def held_when_stopped(
    before: Sequence[ledger.Line], after: Sequence[ledger.Line], pid: int, lost: Container[tuple[str, str, int]]
) -> dict[str, int]:
    """How many attempts a stopped process had in hand that were lost by that, and where each was.

    Args:
        before: the ledger when the process stood still.
        after: the ledger at the end.
        lost: (run, node, attempt), as the system tells it.

    Returns:
        running; ended, and not reported; claimed, its first line written after the thaw.
    """
    did: dict[tuple[str, str, int], set[str]] = {
        (line.run, line.node, line.attempt): set() for line in after if line.pid == pid
    }
    for line in before:
        if line.pid == pid:
            did[line.run, line.node, line.attempt].add(line.what)
    found = {"running": 0, "ended": 0, "claimed": 0}
    for attempt, what in did.items():
        if attempt in lost:
            found["claimed" if not what else "running" if what == {ledger.START} else "ended"] += 1
    return found


def late_reports(rig: Rig, name: str) -> int:
    """What a scheduler has counted; it tells when it stops."""
    rig.kill(name, signal.SIGTERM)
    return sum(map(int, _LATE.findall(rig.says(name).rpartition("stopped;")[2])))


@row(17, "clocks jump an hour on and an hour back")
def row_17(rigs: RigFactory, seed: int) -> Verdict:
    """Of two schedulers and two workers one clock each goes on, one back, and then the other way round.

    Leases, retries and deadlines are Redis's affair: none ends early, none is lost.
    """
    with rigs(app="tests.acceptance.faults.app_timers:app", settings={"PYTHONPATH": f"{HERE / 'clock'}:{ROOT}"}) as rig:
        start_with_clocks(rig)
        loads = rig.submit_base()
        client = rig.client()
        timed = client.submit(timers(), check=False)
        doomed = client.submit(too_long(), deadline=6, check=False)
        eventually(lambda: len(rig.ledger()) > rig.nodes // 8, "the load is under way")
        for first, second in ((HOUR, -HOUR), (-HOUR, HOUR)):
            for name in ("s1", "w1"):
                jump(rig, name, first)
            for name in ("s2", "w2"):
                jump(rig, name, second)
            time.sleep(4)  # a time in which leases would end, and timers
        rig.wait(loads, 120)
        timed.wait(60)
        doomed.wait(60)
        verdict = rig.judge([*loads], most_duplicates=0)
        verdict.violations += in_time(timed)
        took = lasted_seconds(doomed)
        verdict.facts["deadline of 6 s came after"] = took
        verdict.must(str(doomed.state) == "failed" and 6 <= took < 10, f"a deadline of 6 s came after {took} s")
        for name in rig.schedulers:
            rig.kill(name, signal.SIGTERM)
        for name in ("s1", "s2", "w1", "w2"):
            verdict.must(off_by_hours(rig.says(name)) >= 1, f"the clock of {name} did not jump: the row shows nothing")
        return verdict


def start_with_clocks(rig: Rig) -> None:
    """As start_all, but each process has a clock of its own."""
    rig.start_redis()
    for name in rig.schedulers:
        rig.start(name, "scheduler", env={"FAULTS_CLOCK": str(rig.directory / f"{name}.clock")})
    for name in rig.workers:
        env = {"FAULTS_CLOCK": str(rig.directory / f"{name}.clock")}
        rig.start(name, "worker", "work", "-n", f"{name}@%h", env=env)
    rig.await_workers(len(rig.workers))


def jump(rig: Rig, name: str, seconds: int) -> None:
    """From now on this process's clock is wrong by so much."""
    (rig.directory / f"{name}.clock").write_text(str(seconds))


def timers() -> Graph:
    """Attempts longer than their lease, and waits between two tries."""
    graph = Graph("timers", retry=Retry(3), queue_class="work")
    for number in range(3):
        graph.add(LONG, key=f"long-{number}", seconds=1.5 * LEASE_SECONDS)
    for number in range(6):
        graph.add(PATIENT, key=f"patient-{number}", seconds=4)
    return graph


def too_long() -> Graph:
    """One node that its run's deadline cuts short."""
    graph = Graph("too long", retry=1, queue_class="work")
    graph.add(LONG, key="long", seconds=9)
    return graph


def in_time(run: RunHandle) -> list[str]:
    """What went wrong with the nodes of `timers`."""
    wrong = [] if str(run.state) == "succeeded" else [f"the run of timers is {run.state}"]
    for view in run.nodes():
        tries: list[Any] = list(view.tries)
        if len(tries) != (1 if view.key.startswith("long") else 2):
            wrong.append(f"{view.key} had {len(tries)} tries: {[it.end for it in tries]}")
        elif len(tries) == 2:
            waited = (tries[1].ready_at_ms - tries[0].ended_at_ms) / 1000
            if not 4 <= waited < 8:
                wrong.append(f"{view.key} waited {waited} s and not 4")
    return wrong


def lasted_seconds(run: RunHandle) -> float:
    """From a run's submission to its end, by Redis's clock."""
    it = run.summary()
    return round(((it.ended_at_ms or 0) - it.created_at_ms) / 1000, 1)


def off_by_hours(text: str) -> int:
    """How many records of a log bear an instant that is wrong by about an hour."""
    now = datetime.now(UTC).timestamp()
    stamps = re.findall(r"(?m)^\[?(20\d\d-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)", text)
    instants = [datetime.fromisoformat(f"{day}T{hour}+00:00").timestamp() for day, hour in stamps]
    return sum(abs(now - it) > HOUR / 2 for it in instants)
