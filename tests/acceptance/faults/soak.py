"""`make soak`: the base load without end, everything killed at random, memory watched. Row 31 of the table.

Each run is judged when it has ended, as in every row. Schedulers, workers, pool processes and Redis are killed one or
several at a time. Memory must be flat: of every kind of process, and of Redis for what it keeps.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scheduler import CeleriacError
from scheduler.settings import Settings

from . import ledger
from .checker import check
from .judge import account_of, left_over
from .killer import CHILD, REDIS, Killer
from .load import Load, Plan, random_plan, submit
from .rig import Rig
from .sampling import Samples

LIVE = {"work": 3, "heavy": 1}
"""Runs on their way at one time, by queue class."""
NODES = {"work": 2000, "heavy": 300}
MS = (1.0, 60.0)
SAMPLE_SECONDS = 5.0
RUN_SECONDS = 600.0
"""A run that takes longer than this under fire has got stuck."""
MOST_DRIFT = 0.1
JUDGED_MINUTES = 10.0
"""In less time nothing can be said about drift."""
RETENTION_SECONDS = 120.0


class Soak:
    """What goes on while the killer strikes.

    Attributes:
        live: runs on their way, by queue class.
        violations: so far.
    """

    def __init__(self, rig: Rig, retention: bool) -> None:
        self.rig = rig
        self.retention = retention
        self.client = rig.client()
        self.live: dict[str, list[Load]] = {name: [] for name in LIVE}
        self.samples = Samples()
        self.violations: list[str] = []
        self.runs = self.nodes = self.starts = self.duplicates = self.spent = self.submitted = 0
        self.ended: list[tuple[float, int]] = []
        self._began = time.monotonic()
        self._sample_at = self._tell_at = 0.0
        self._lines: dict[str, list[ledger.Line]] = {}
        self._judged: set[str] = set()
        self._read_to = 0
        self._pending: dict[str, tuple[Plan, str]] = {}

    def turn(self) -> bool:
        """Judge what has ended, submit anew, look at memory. Never enough."""
        now = time.monotonic() - self._began
        try:
            for name, loads in self.live.items():
                for load in [it for it in loads if it.done]:
                    self.judge(load)  # raises while Redis is away, and then has changed nothing
                    loads.remove(load)
                if len(loads) < LIVE[name]:
                    self._submit(name)
        except CeleriacError:
            pass  # Redis is away; the next turn tries again
        if now >= self._sample_at:
            self._sample_at = now + SAMPLE_SECONDS
            self.samples.take(self.rig, now, self._kept(now))
        if now >= self._tell_at:
            self._tell_at = now + 60
            self.tell(now)
        return False

    def finish(self, seconds: float) -> None:
        """No more kills and no more runs: what is on its way ends, and nothing is left over."""
        every = [load for loads in self.live.values() for load in loads]
        self.rig.wait(every, seconds)
        for load in every:
            self.judge(load)
        self.violations += left_over(self.rig.look(), 60)

    def judge(self, load: Load) -> None:
        """Compare graph, ledger and account of a run that has ended."""
        self._read()
        account = account_of(self.client, load)
        if load.state is None:
            self.violations.append(f"run {load.id}: its client was not told of the end: {load.error!r}")
        found = check(load.plan, self._lines.pop(load.id, []), account)
        self._judged.add(load.id)
        self.violations += [f"run {load.id}: {it}" for it in (*load.wrong, *found.violations)]
        self.runs += 1
        self.nodes += len(load.plan.upstream)
        self.ended.append((time.monotonic() - self._began, len(load.plan.upstream)))
        self.starts += found.starts
        self.duplicates += found.duplicates
        self.spent += found.spent

    def tell(self, now: float) -> None:
        """One line of the table."""
        last = self.samples.last
        print(
            f"{now / 60:>5.1f} min  {self.runs:>5} runs  {self.nodes:>8} nodes  {len(self.rig.kills):>5} kills  "
            f"{self.duplicates:>5} dupl.  {len(self.violations):>3} viol.  Redis {last('Redis used') / 1e6:>6.1f} MB  "
            f"{last('Redis used per kept node'):>5.0f} B/node  scheduler {last('scheduler RSS') / 1e6:>4.0f} MB  "
            f"worker {last('worker RSS') / 1e6:>4.0f} MB  prefork {last('prefork worker RSS') / 1e6:>4.0f} MB",
            flush=True,
        )

    def _submit(self, name: str) -> None:
        """One more run. What was not acknowledged is sent again, under the same key and with the same graph."""
        if name not in self._pending:
            self._pending[name] = random_plan(self.rig.random, NODES[name], MS), f"soak {self.submitted}"
            self.submitted += 1
        plan, key = self._pending[name]
        self.live[name].append(submit(self.client, plan, RUN_SECONDS, key=key, queue_class=name))
        del self._pending[name]

    def _kept(self, now: float) -> int:
        """Nodes of the runs that Redis keeps: all, or those that retention leaves and those on their way."""
        since = now - RETENTION_SECONDS if self.retention else 0.0
        live = sum(len(load.plan.upstream) for loads in self.live.values() for load in loads)
        return live + sum(nodes for at, nodes in self.ended if at >= since)

    def _read(self) -> None:
        """New lines of the ledger. A task of a run that was judged may still end, but none may start."""
        with self.rig.ledger_path.open("rb") as file:
            file.seek(self._read_to)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for raw in whole.splitlines():
            line = ledger.Line(*json.loads(raw))
            if line.run not in self._judged:
                self._lines.setdefault(line.run, []).append(line)
            elif line.what == ledger.START:
                self.violations.append(f"run {line.run}: {line.node} started after the run had ended")


def run(minutes: float, seed: int, directory: Path, bundle_seconds: float | None = None) -> dict[str, Any]:
    """Soak for so long; returns what came of it as JSON."""
    retention = "retention_seconds" in Settings.model_fields
    settings = {"CELERIAC_RETENTION_SECONDS": str(RETENTION_SECONDS)} if retention else {}
    if retention and "archive_url" in Settings.model_fields:
        settings["CELERIAC_ARCHIVE_URL"] = str(directory / "archive")
    with Rig(directory, seed, settings=settings, bundle_seconds=bundle_seconds) as rig:
        rig.start_all()
        rig.worker("h1", "heavy")
        rig.await_workers(len(rig.workers) + 1)
        soak = Soak(rig, retention)
        soak.samples.take(rig, 0.0, 0)
        targets = [*rig.schedulers, *rig.workers, "h1", CHILD + "h1", REDIS]
        killer = Killer(rig, targets, every=(4, 15), down=(0, 3), at_once=3, most=math.inf, supervised=True)
        killer.until(soak.turn, minutes * 60)
        soak.finish(RUN_SECONDS)
        drifts = soak.samples.drifts()
        if minutes >= JUDGED_MINUTES:
            # all runs are kept unless retention lets them go: then Redis grows, but not per node
            judged = {name: it for name, it in drifts.items() if retention or name not in ("Redis used", "Redis RSS")}
            soak.violations += [f"{n} grew by {it:.0%}" for n, it in judged.items() if it > MOST_DRIFT]
        soak.tell(minutes * 60)
        return {
            "minutes": minutes,
            "seed": seed,
            "retention": retention,
            "runs": soak.runs,
            "nodes": soak.nodes,
            "starts": soak.starts,
            "duplicates": soak.duplicates,
            "paid twice": soak.spent,
            "kills": dict(sorted(killer.killed.items())),
            "ended by themselves": killer.fallen,
            "violations": soak.violations,
            "drift": {name: round(it, 3) for name, it in drifts.items()},
            "samples": soak.samples.points,
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak and tell. Exit status 1 when anything was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bundle-seconds", type=float, metavar="S", help="of work in one message, in every class")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--home", type=Path, metavar="DIRECTORY", help="where logs and ledger are left on a violation")
    options = parser.parse_args(arguments)
    home = options.home or Path(tempfile.mkdtemp(prefix="celeriac-soak-"))
    home.mkdir(parents=True, exist_ok=True)
    print(f"seed {options.seed}, pid {os.getpid()}, in {home}", flush=True)
    told = run(options.minutes, options.seed, home, options.bundle_seconds)
    if options.json:
        options.json.write_text(json.dumps(told, indent=1))
    for name in ("kills", "paid twice", "retention"):
        print(f"{name}: {told[name]}")
    for name, last_words in told["ended by themselves"]:
        print(f"{name} ended by itself; the last it said:\n{last_words}")
    print("; ".join(f"{name} {it:+.1%}" for name, it in told["drift"].items()))
    for violation in told["violations"][:50]:
        print(f"VIOLATION {violation}")
    print(f"{len(told['violations'])} violations")
    if not told["violations"] and options.home is None:
        shutil.rmtree(home, ignore_errors=True)
    return 1 if told["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
