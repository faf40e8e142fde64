"""`python -m tests.bench.peers [--json FILE] [--quick]`: the same graphs on celeriac, Celery's canvas, streaQ and Dask.

In turns on one machine: a system is started, warmed up, given every graph, and ended before the next has its turn, so
none pays for another that idles. Each has two worker processes. A time begins just before the first message or the
graph is sent, with the graph already built, and ends when the client knows that all is done. streaQ and Dask run in the
environment that --peers names, which `make bench-peers` makes; one that is not there is left out, with the reason.
Prints what was measured, never whether that is good.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from scheduler import Client, Graph, Node

from . import celeriac, celery_runs, reference, shapes
from .figures import Spread, ratio, table
from .metg import LENGTHS_MS, SLOTS, crossing
from .peer_work import WORKERS, Work, dumps
from .place import ROOT, Place

LENGTHS = (16.0, 8.0, *LENGTHS_MS)
"""Some of the peers need longer tasks than metg.py has."""
PEERS = ROOT / ".venv-peers"
TURN_SECONDS = 1800.0
"""A peer that takes longer for all its graphs is ended, and what it has not finished is left out."""
FLAT, ALONE = "flat", "chain_alone"

Run = Callable[[Sequence[Work]], Iterator[tuple[str, float]]]
"""Runs works in one turn; (name of a work, seconds) as each is done. Works that it has no way to say are left out."""


@dataclass(slots=True)
class System:
    """One system that is measured.

    Attributes:
        kept: where its state is, so what a crash of a process leaves.
        ways: work -> how it is said there.
        seconds: work -> one entry a turn.
        missing: why it is not measured, or not to the end.
    """

    name: str
    kept: str
    ways: dict[str, str]
    run: Run
    seconds: dict[str, list[float]] = field(default_factory=dict)
    missing: str = ""

    def turn(self, works: Sequence[Work]) -> None:
        """One turn; a system that fails has no further ones."""
        try:
            for name, seconds in self.run(works):
                self.seconds.setdefault(name, []).append(seconds)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            self.missing = str(error)


def works_of(*, quick: bool) -> list[Work]:
    """What everybody is asked to run."""
    rows = 15 if quick else 50
    plain = [
        Work("fanin", "fan", (1000 if quick else 5000,)),
        Work("chain", "chain", (200 if quick else 500,)),
        Work("stencil", "stencil", (rows, 50)),
        Work("diamonds", "diamond", (), 100 if quick else 300),
    ]
    return plain + [Work(busy(length), "stencil", (15 if quick else 40, 50), 1, length * 1e3) for length in LENGTHS]


def busy(length_ms: float) -> str:
    """The name of the stencil with tasks of that length."""
    return f"busy {length_ms:g} ms"


def systems_of(place: Place, peers: Path) -> list[System]:
    """All of them, those that cannot be measured too; celeriac is the first."""
    found = [
        System(
            "celeriac",
            "Redis",
            {"chain": "steps may share a message", ALONE: "a message for each node", "diamonds": "a run each"},
            lambda works: run_celeriac(place, works),
        ),
        System(
            "canvas",
            "Redis",
            {
                "fanin": "chord",
                "chain": "chain",
                "stencil": "a chord a row, each begins the next",
                "diamonds": "a chain with a group each",
                FLAT: "as many tasks without edges, queue filled first",
            },
            lambda works: run_celery(place, works),
        ),
    ]
    after = "after=, in batches"
    streaq = {"fanin": after, "chain": "then()", "stencil": after, "diamonds": after}
    dask = {"fanin": "one get()", "chain": "futures", "stencil": "one get()", "diamonds": "one get() of all"}
    for name, package, kept, ways in (("streaQ", "streaq", "Redis", streaq), ("Dask", "distributed", "memory", dask)):
        system = System(name, kept, ways, peer_run(place, peers, name.lower()))
        try:
            system.name += f" {version_of(peers, package)}"
        except (OSError, subprocess.SubprocessError):
            system.missing = f"{package} is not installed in {peers}; `make bench-peers` does that"
        found.append(system)
    return found


def python_of(peers: Path) -> str:
    """The peers' Python."""
    return str(peers / "bin" / "python")


def version_of(peers: Path, package: str) -> str:
    """The version that is installed there.

    Raises:
        OSError, SubprocessError: there is none.
    """
    code = f"from importlib.metadata import version; print(version({package!r}))"
    argv = [python_of(peers), "-c", code]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def run_celeriac(place: Place, works: Sequence[Work]) -> Iterator[tuple[str, float]]:
    """The turn of celeriac."""
    place.clear()
    with ExitStack() as stack:
        for child in (place.start_worker("nodes", celeriac.queue_of(place)), place.start_scheduler()):
            stack.callback(place.stop, child)
        client = stack.enter_context(Client(place.redis.url))
        celeriac.run_all(client, [celeriac.graph_of(shapes.fan(200))])
        for work in works:
            graph = busy_graph(work) if work.task_us else celeriac.graph_of(work.graph())
            yield work.name, celeriac.run_all(client, [graph] * work.times, together=work.times > 1).total
            if work.name == "chain":
                alone = celeriac.graph_of(work.graph(), alone=True)
                yield ALONE, celeriac.run_all(client, [alone]).total


def busy_graph(work: Work) -> Graph:
    """A graph of busy tasks."""
    shape = work.graph()
    graph = Graph(shape.name)
    nodes: list[Node[None]] = []
    for up in shape.up:
        nodes.append(graph.add(celeriac.BUSY, after=[nodes[at] for at in up], args=[work.task_us / 1e3]))
    return graph


def run_celery(place: Place, works: Sequence[Work]) -> Iterator[tuple[str, float]]:
    """Stock Celery's turn: canvas, and raw tasks beside the fan."""
    place.clear()
    child = place.start_worker("reference", reference.QUEUE)
    try:
        celery_runs.raw(place, 200, child)
        celery_runs.canvas_fan(50)
        for work in works:
            if work.task_us:
                continue  # canvas would need its empty tasks' time many times over
            sizes = work.sizes
            match work.name:
                case "fanin":
                    yield FLAT, celery_runs.raw(place, tasks_of(work), child)
                    yield work.name, celery_runs.canvas_fan(sizes[0])
                case "chain":
                    yield work.name, celery_runs.canvas_chain(sizes[0])
                case "stencil":
                    yield work.name, celery_runs.canvas_rows(place, work.graph().up, sizes[1])
                case "diamonds":
                    yield work.name, celery_runs.canvas_diamonds(work.times)
            celery_runs.forget_results(place)
            gc.collect()  # handles of results unsubscribe when they go: not in somebody else's turn
    finally:
        place.stop(child)


def peer_run(place: Place, peers: Path, name: str) -> Run:
    """The turns of a peer: its program in its own Python, with an emptied Redis."""

    def run(works: Sequence[Work]) -> Iterator[tuple[str, float]]:
        place.clear()
        argv = [python_of(peers), "-m", f"tests.bench.peer_{name}", dumps(works)]
        env = {**os.environ, "BENCH_REDIS": place.redis.url, "PYTHONPATH": str(ROOT)}
        with tempfile.TemporaryFile("w+") as log:
            child = subprocess.Popen(
                argv, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
            try:
                said, _ = child.communicate(timeout=TURN_SECONDS)
            except subprocess.TimeoutExpired:
                said = ""
            finally:
                end(child)
            for line in said.splitlines():
                answer = json.loads(line)
                yield answer["name"], answer["seconds"]
            if child.returncode:
                log.seek(0)
                raise RuntimeError(
                    f"{argv[2]} ended with status {child.returncode}; its log ends:\n{log.read()[-1500:]}"
                )

    return run


def end(child: subprocess.Popen[str]) -> None:
    """End a peer's program, which ends what it started; after a while all of its session."""
    if child.poll() is None:
        child.terminate()
        try:
            child.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()


def tasks_of(work: Work) -> int:
    """In all graphs of a work."""
    return len(work.graph()) * work.times


def rates(work: Work, seconds: Sequence[float]) -> list[float]:
    """Tasks a second, turn by turn."""
    return [tasks_of(work) / it for it in seconds]


def report(works: Sequence[Work], systems: Sequence[System]) -> tuple[str, dict[str, float]]:
    """The table of empty tasks, and its values: `fanin_vs_dask` is celeriac's tasks a second by Dask's."""
    ours = systems[0]
    rows: list[list[str]] = []
    values: dict[str, float] = {}
    for work in (it for it in works if not it.task_us and it.name in ours.seconds):
        title = f"{work.graph().name}{f' x {work.times:,}' if work.times > 1 else ''}"
        base = rates(work, ours.seconds[work.name])
        alone = rates(work, ours.seconds.get(ALONE, [])) if work.name == "chain" else []
        for system in systems:
            key = system.name.split()[0].lower()
            for name in (work.name, *([ALONE] if work.name == "chain" else [FLAT] if work.name == "fanin" else [])):
                seconds = system.seconds.get(name)
                if not seconds:
                    continue
                theirs = rates(work, seconds)
                values[f"{key}_{name}_tasks_per_second"] = Spread.of(theirs).middle
                against = ""
                if system is not ours:
                    if name == FLAT:
                        values["fanin_vs_raw_celery"] = ratio(base, theirs).middle
                    else:
                        values[f"{name}_vs_{key}"] = ratio(base, theirs).middle
                    if alone:
                        values[f"{ALONE}_vs_{key}"] = ratio(alone, theirs).middle
                    against = str(ratio(base, theirs))
                shown_name = "raw Celery" if name == FLAT else system.name
                rows.append(
                    [title, shown_name, str(Spread.of(theirs)), against, system.kept, system.ways.get(name, "")]
                )
                title = ""
    head = ["graph", "system", "tasks a second", "celeriac : it", "state kept in", "said as"]
    note = (
        "celeriac : it: tasks a second, ours by theirs, of the same turn; a chain's by the one whose steps may share a "
        "message. State in Redis (AOF everysec) outlives every process but is at most a second behind when the machine "
        "dies; state in memory is gone with Dask's scheduler."
    )
    return f"{table(head, rows)}\n\n{note}", values


def efficiencies(works: Sequence[Work], system: System) -> dict[float, list[float]]:
    """Length of a task in ms -> the work by what two processes could have done meanwhile, turn by turn."""
    found = {}
    for work in works:
        if work.task_us and work.name in system.seconds:
            all_seconds = tasks_of(work) * work.task_us / 1e6
            found[work.task_us / 1e3] = [all_seconds / SLOTS / it for it in system.seconds[work.name]]
    return found


def report_metg(works: Sequence[Work], systems: Sequence[System]) -> tuple[str, dict[str, float]]:
    """The table of busy tasks: efficiency by length, and where it falls below one half. Lower is better."""
    columns = {it.name: efficiencies(works, it) for it in systems}
    columns = {name: found for name, found in columns.items() if len(found) == len(LENGTHS)}
    if not columns:
        return "", {}
    rows = [[f"{length:g}", *(str(Spread.of(found[length])) for found in columns.values())] for length in LENGTHS]
    halves: dict[str, list[float]] = {}
    for name, found in columns.items():
        turns = zip(*found.values(), strict=False)
        halves[name] = [crossing(dict(zip(found, turn, strict=True))) for turn in turns]
    rows.append(["METG(50 %), ms", *(str(Spread.of(it)) for it in halves.values())])
    values = {f"{name.split()[0].lower()}_metg_ms": Spread.of(it).middle for name, it in halves.items()}
    ours = halves.get(systems[0].name)
    for name, theirs in halves.items():
        if ours and name != systems[0].name:
            values[f"metg_vs_{name.split()[0].lower()}"] = ratio(ours, theirs).middle
    shape = next(work for work in works if work.task_us).graph()
    bounds = f"{LENGTHS[0]:g} ms means that or more, {LENGTHS[-1]:g} that or less"
    foot = f"\n\n{shape.name} of busy tasks; lower is better. {bounds}."
    return table(["ms of work a task", *columns], rows) + foot, values


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write {name: value} there")
    parser.add_argument("--quick", action="store_true", help="one turn, smaller graphs")
    parser.add_argument("--repeats", type=int, metavar="N", help="turns of each; 3, with --quick 1")
    parser.add_argument("--peers", type=Path, default=PEERS, metavar="DIR", help="environment with streaq, distributed")
    parser.add_argument(
        "--systems", nargs="+", metavar="NAME", help="of canvas, streaq, dask; celeriac is always there"
    )
    parser.add_argument("--graphs", nargs="+", metavar="NAME", help="of fanin, chain, stencil, diamonds, metg")
    asked = parser.parse_args()
    works = works_of(quick=asked.quick)
    if asked.graphs:
        works = [it for it in works if ("metg" if it.task_us else it.name) in asked.graphs]
    values: dict[str, float] = {}
    with Place() as place:
        reference.aim(place.redis.url)
        systems = systems_of(place, asked.peers.absolute())
        if asked.systems:
            systems = systems[:1] + [it for it in systems[1:] if it.name.split()[0].lower() in asked.systems]
        packages = ", ".join(f"{name} {version(name)}" for name in ("celery", "kombu", "redis"))
        redis = ".".join(map(str, place.redis.version))
        cores = f"{os.cpu_count()} cores, {WORKERS} worker processes each"
        print(f"Python {platform.python_version()}, {packages}, Redis {redis} with AOF everysec, {cores}", flush=True)
        start, others = time.monotonic(), place.others()
        for turn in range(asked.repeats or (1 if asked.quick else 3)):
            for system in (it for it in systems if not it.missing):
                begun, busy_others = time.monotonic(), place.others()
                system.turn(works)
                took = f"{time.monotonic() - begun:.0f} s, others {busy_others():.0%}"
                print(f"turn {turn + 1}, {system.name}: {took}", file=sys.stderr, flush=True)
        for title, (text, found) in (
            ("In turns: empty tasks", report(works, systems)),
            ("METG(50 %)", report_metg(works, systems)),
        ):
            if found:
                print(f"\n## {title}\n\n{text}")
            values.update(found)
        for system in (it for it in systems if it.missing):
            print(f"\n{system.name}: not measured, or not to the end: {system.missing}")
        print(f"[{time.monotonic() - start:.0f} s; other processes used {others():.0%} of the cores]")
        celery_runs.close()
    if asked.json is not None:
        asked.json.write_text(json.dumps(values, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
