"""Rows 7 and 8: the Redis that holds all state is killed, with and without its append-only file."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time

from scheduler import CeleriacError, RunNotFound, StoreError

from . import recovery
from .killer import REDIS, Killer
from .load import Load, Plan, ended, graph_of
from .rig import Rig, eventually
from .rows import RigFactory, Verdict, row

TOLD_SECONDS = 90.0
"""By when a client that waits for what is lost is told."""
SLOTS = 6
"""Of a worker of the class `work`."""
SAID = re.compile(r"(?i)rewound|back in time|came back empty|has lost")
"""What a scheduler's log says, one way or the other, when acknowledged state is gone."""


@row(7, "Redis kill -9, append-only file everysec", fast=True)
def row_7(rigs: RigFactory, seed: int) -> Verdict:
    """No acknowledged submit is lost, a repeated one is the same run, and everything comes back by itself."""
    with rigs() as rig:
        rig.start_all()
        loads = rig.submit_base()
        restarts: list[float] = []
        killer = Killer(rig, [REDIS], every=(2, 5), down=(0, 2), after=lambda _: restarts.append(time.monotonic()))
        small = _Submitter(rig)
        killer.until(lambda: ended(loads), 180)
        small.stop()
        rig.wait(small.loads, 60)
        lines = rig.ledger()
        verdict = rig.judge(
            [*loads, *small.loads],
            most_duplicates=SLOTS * len(rig.workers) * len(rig.kills),
            notes={
                "kills": len(rig.kills),
                "submits acknowledged": len(small.loads),
                "refused": small.refused,
                "first start after restart": recovery.told(recovery.next_start(lines, restarts)),
            },
        )
        verdict.violations += small.wrong
        return verdict


@row(8, "Redis kill -9 without an append-only file")
def row_8(rigs: RigFactory, seed: int) -> Verdict:
    """Refused at the start when asked to be strict. Lost all the same: said aloud, no wrong state, clients are told."""
    with rigs(redis_options=("--appendonly", "no")) as rig:
        rig.start_redis()
        verdict = Verdict()
        _strict(rig, verdict)
        rig.start_all()
        loads = rig.submit_base()
        eventually(lambda: len(rig.ledger()) > rig.nodes // 2, "a part of the work is done")
        rig.kill_redis()
        rig.redis.start()
        at = time.monotonic()
        rig.wait(loads, 90)
        for load in loads:
            verdict.must(
                load.done, f"run {load.id}: its client still waits in silence, {time.monotonic() - at:.0f} s after"
            )
            verdict.must(load.state is None, f"run {load.id}: its client was told {load.state}, and all was lost")
            told = isinstance(load.error, StoreError | RunNotFound)
            verdict.must(told, f"run {load.id}: its client was told {load.error!r}")
        until = time.monotonic() + TOLD_SECONDS / 3
        while (
            not (said := [name for name in rig.schedulers if SAID.search(rig.says(name))]) and time.monotonic() < until
        ):
            time.sleep(0.1)  # between two looks
        verdict.must(bool(said), "no scheduler said that the store had lost what it had acknowledged")
        rig.await_workers(len(rig.workers))
        known = {it.id for it in rig.client().runs()}
        verdict.must(not known, f"runs that were lost are told of: {known}")
        fresh = rig.submit_base(nodes=300, runs=1)
        rig.wait(fresh, 60)
        after = rig.judge(fresh, strangers=True)
        after.violations = [*verdict.violations, *after.violations]
        after.facts |= {"said by": ", ".join(said), "clients told": sorted({type(it.error).__name__ for it in loads})}
        return after


class _Submitter:
    """Submits small graphs all the time, each under a key of its own; one that was not acknowledged is repeated.

    Attributes:
        loads: what was acknowledged.
        refused: how many submits raised, as they may while Redis is away.
        wrong: sentences.
    """

    def __init__(self, rig: Rig) -> None:
        self.loads: list[Load] = []
        self.refused = 0
        self.wrong: list[str] = []
        self._client = rig.client()
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, name="submits", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more; whoever submitted waits for the ends from now on."""
        self._enough.set()
        self._thread.join(90)
        for load in self.loads:
            load.watch(60)

    def _run(self) -> None:
        number = 0
        plan = Plan({"a": (), "b": ("a",), "c": ("b",)}, frozenset(), {"a": 5.0, "b": 5.0, "c": 5.0})
        while not self._enough.is_set():
            key = f"small {number}"
            try:
                handle = self._client.submit(graph_of(plan, "small"), key=key, check=False)
            except CeleriacError:
                self.refused += 1  # nothing was promised: the same key once more
                continue
            finally:
                self._enough.wait(0.2)  # between two submits
            self.loads.append(Load(plan, handle))
            number += 1
            if number % 5 == 0:
                self._repeat(key, handle.id)

    def _repeat(self, key: str, id_: str) -> None:
        try:
            again = self._client.submit(graph_of(self.loads[-1].plan, "small"), key=key, check=False)
        except CeleriacError:
            self.refused += 1
            return
        if again.id != id_:
            self.wrong.append(f"key {key} was run {id_}, and is run {again.id} when repeated")


def _strict(rig: Rig, verdict: Verdict) -> None:
    """`celeriac scheduler --strict` refuses a Redis that would forget what it has acknowledged."""
    command = [sys.executable, "-m", "scheduler.cli", "scheduler", "--strict"]
    env = rig.env("scheduler")
    try:
        done = subprocess.run(command, env=env, cwd=rig.directory, capture_output=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        verdict.must(False, "`celeriac scheduler --strict` went to work on a Redis without an append-only file")
        return
    said = (done.stdout + done.stderr).decode(errors="replace")
    why = "append" in said.lower()
    verdict.must(done.returncode not in (0, 2) and why, f"--strict ended with {done.returncode}, saying: {said[-300:]}")
