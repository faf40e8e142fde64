"""Row 24: the store is full: the disk below the append-only file, in both fsync modes, and Redis's memory."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scheduler import CeleriacError, Client, Graph
from scheduler import errors as all_errors

from .load import Load, random_plan, submit
from .looking import unharmed
from .rig import Rig, eventually
from .rows import RigFactory, Verdict, row

DISK_BYTES = 64 << 20
"""Of the small file system: two cycles of the append-only file fit, and it is full soon."""
REFUSED_SECONDS = 10.0
"""How long it may take until a submit has been refused."""
NO_ROOT = "no small file system could be made: mounting one needs root"


@contextmanager
def small_disk(where: Path) -> Iterator[Path]:
    """A file system of DISK_BYTES of its own, gone afterwards.

    Raises:
        PermissionError: only root may mount one.
    """
    where.mkdir(parents=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "celeriac-faults", str(where)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        raise PermissionError(f"{NO_ROOT}: {made.stderr.strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def fill(disk: Path) -> Path:
    """Use up every byte that is left; returns the file that does."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    with ballast.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0")
    return ballast


@row(24, "the disk of the append-only file is full, everysec")
def disk_everysec(rigs: RigFactory, seed: int) -> Verdict:
    """Redis refuses writes and lives: submits are refused with a reason, all waits, and drains when there is room."""
    with rigs() as rig, small_disk(rig.directory / "disk") as disk:
        rig.redis.options = ("--dir", str(disk))
        rig.start_all()
        loads, chance = rig.submit_base(runs=2), random.Random(seed)
        eventually(lambda: len(rig.ledger()) > rig.nodes // 2, "work is on its way")
        ballast = fill(disk)
        eventually(lambda: rig.look().info("persistence")["aof_last_write_status"] != "ok", "Redis noticed")
        verdict = Verdict()
        _must_refuse(rig, verdict, ("MISCONF", "disk"))
        still = len(rig.ledger())
        time.sleep(chance.uniform(3, 6))  # so long the disk stays full: about a lease
        ballast.unlink()
        freed = time.monotonic()
        eventually(lambda: len(rig.ledger()) > still + 50, "work goes on", 60)
        verdict.facts["goes on after"] = round(time.monotonic() - freed, 1)
        return _drained(rig, verdict, loads, chance)


@row(24, "the disk of the append-only file is full, always")
def disk_always(rigs: RigFactory, seed: int) -> Verdict:
    """Redis ends itself: clients are told that it does not answer; started again with room, all goes on."""
    with rigs() as rig, small_disk(rig.directory / "disk") as disk:
        rig.redis.options = ("--dir", str(disk), "--appendfsync", "always")
        rig.start_all()
        loads, chance = rig.submit_base(runs=2), random.Random(seed)
        eventually(lambda: len(rig.ledger()) > rig.nodes // 2, "work is on its way")
        ballast = fill(disk)
        eventually(lambda: rig.redis.pid is None, "Redis has ended itself")
        verdict = Verdict()
        _must_refuse(rig, verdict, ("does not answer", "no answer", "unreachable", "Connection", "No such file"))
        ballast.unlink()
        rig.redis.start()
        freed, still = time.monotonic(), len(rig.ledger())
        eventually(lambda: len(rig.ledger()) > still + 50, "work goes on", 60)
        verdict.facts["goes on after"] = round(time.monotonic() - freed, 1)
        return _drained(rig, verdict, loads, chance)


@row(24, "Redis's memory is full")
def memory(rigs: RigFactory, seed: int) -> Verdict:
    """Submits are refused before Redis is full, so that work in flight drains; with room they are taken again."""
    if not hasattr(all_errors, "StoreFull"):
        return Verdict(["there is no memory guard: this version has no StoreFull"])
    with rigs() as rig:
        rig.start_all()
        look: Any = rig.look()
        look.config_set("maxmemory", look.info("memory")["used_memory"] + (6 << 20))
        chance, verdict = random.Random(seed), Verdict()
        client = rig.client()
        loads: list[Load] = []
        with suppress(CeleriacError):
            while len(loads) < 200:
                loads.append(submit(client, random_plan(chance, 400), 300))
        verdict.must(0 < len(loads) < 200, f"{len(loads)} runs were taken before the memory was full")
        _must_refuse(rig, verdict, ("memory",), 1_000)  # a smaller one may well fit where the last did not
        rig.wait(loads, 120)
        undone = sum(not load.done for load in loads)
        verdict.must(not undone, f"{undone} of {len(loads)} acknowledged runs did not end beside a full memory")
        verdict.must("OOM" not in "".join(map(rig.says, rig.processes)), "Redis itself was full, not only guarded")
        look.config_set("maxmemory", 0)
        return _drained(rig, verdict, loads, chance)


def _must_refuse(rig: Rig, verdict: Verdict, reasons: tuple[str, ...], nodes: int = 1) -> None:
    """A submit of so many nodes must be refused soon, as a store's error that says why, and leave no run."""
    began = time.monotonic()
    graph = Graph("refused", queue_class="work")
    for number in range(nodes):
        graph.add("faults.step", name=f"n{number}", ms=1, inputs={"parents": [], "ballast": "x" * 1000})
    with Client(rig.redis.url) as client:
        try:
            run = client.submit(graph, check=False)
        except all_errors.StoreError as refused:
            told = str(refused)
            verdict.facts["refused as"] = type(refused).__name__
            verdict.must(any(it in told for it in reasons), f"the refusal does not say why: {told}")
        else:
            verdict.violations.append(f"a submit was taken by a full store: {run.id}")
    verdict.facts["refused within"] = round(time.monotonic() - began, 1)
    verdict.must(time.monotonic() - began < REFUSED_SECONDS, "it took too long to refuse a submit")


def _drained(rig: Rig, verdict: Verdict, loads: list[Load], chance: random.Random) -> Verdict:
    """With room again a submit is taken, and every acknowledged run ends as it should."""
    loads = [*loads, submit(rig.client(), random_plan(chance, 200), 300)]
    rig.wait(loads, 150)
    judged = rig.judge(loads)
    judged.violations = verdict.violations + judged.violations
    judged.facts = verdict.facts | judged.facts
    judged.must(judged.duplicates <= len(rig.workers) * 32, f"{judged.duplicates} duplicates: more than were in flight")
    return unharmed(rig, judged)
