"""More work than the workers can take, from 1 to 10 times of it; and a small run beside a run of 100,000 nodes.

The workers can do CAPACITY nodes a second, whatever is submitted. What is measured is the scheduler's own part: from
the arrival of a report or a submit in its inbox until what follows from it is published, and how long its turns take.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from scheduler import Client, RunHandle, RunState

from . import celeriac, shapes
from .figures import shown, table
from .place import Place
from .sections import Section

CAPACITY = 400.0
LEVELS = (1, 2, 5, 10)
RUN = shapes.layers(2, 20)
SMALL = shapes.diamond()
FLOOD = shapes.Shape("100,000 at once", [[] for _ in range(100_000)])


def overload(place: Place, *, quick: bool) -> Section:
    """The scheduler's latency at each level, and what a flood costs a small run of the same class."""
    values: dict[str, float] = {}
    rows = []
    for level in LEVELS:
        turns, waited = _level(place, level, seconds=3.0 if quick else 8.0)
        took, lags = sorted(it for it, _ in turns), sorted(lag for _, lag in turns if lag >= 0)
        values[f"overload_scheduler_p99_ms_{level}x"] = _percentile(lags, 0.99) * 1e3
        values[f"overload_turn_max_ms_{level}x"] = took[-1] * 1e3
        values[f"overload_queue_wait_p50_s_{level}x"] = waited
        each = [_percentile(lags, at) * 1e3 for at in (0.5, 0.9, 0.99, 1.0)]
        rows.append(
            [f"{level}x", *map(shown, each), shown(_percentile(took, 0.99) * 1e3), shown(took[-1] * 1e3), shown(waited)]
        )
    head = ["offered", "p50 ms", "p90", "p99", "max", "turn p99 ms", "turn max", "queue wait p50, s"]
    alone, beside, longest = _beside(place, 10 if quick else 30)
    values["small_run_beside_flood_ratio"] = beside / alone
    values["small_run_beside_flood_ms"] = beside * 1e3
    values["flood_turn_max_ms"] = longest * 1e3
    text = (
        f"{table(head, rows)}\n\na diamond alone {shown(alone * 1e3)} ms, beside {FLOOD.name} in its class "
        f"{shown(beside * 1e3)} ms: {shown(beside / alone)} times; longest turn meanwhile {shown(longest * 1e3)} ms"
    )
    return Section(f"Overload: workers that can do {CAPACITY:,.0f} nodes a second", text, values)


def _level(place: Place, level: int, seconds: float) -> tuple[list[tuple[float, float]], float]:
    """(turns as service.py notes them, median seconds from ready to claimed) with `level` times what can be done."""
    place.clear()
    celeriac.publish_contract(place)
    queue, noted = celeriac.queue_of(place), place.home / f"turns-{level}.json"
    worker = place.start("echo", "-m", "tests.bench.echo", queue, str(CAPACITY))
    scheduler = place.start_scheduler("--turns", str(noted))
    graph = celeriac.graph_of(RUN)
    try:
        with Client(place.redis.url) as client:
            runs: list[RunHandle] = []
            start = time.monotonic()
            while (passed := time.monotonic() - start) < seconds:
                if len(runs) * len(RUN) < passed * level * CAPACITY:
                    runs.append(client.submit(graph))
                else:
                    time.sleep(0.002)  # as the offered rate says
                scheduler.check()
            tries = [it for run in runs for node in run.nodes() for it in node.tries if it.claimed_at_ms]
    finally:
        place.stop(worker, scheduler)
    waits = [(it.claimed_at_ms - it.ready_at_ms) / 1000 for it in tries]
    return _read(noted), median(waits) if waits else 0.0


def _beside(place: Place, times: int) -> tuple[float, float, float]:
    """Seconds of a small run alone, the same beside a flood in its class, and the longest turn meanwhile."""
    place.clear()
    celeriac.publish_contract(place)
    queue, noted = celeriac.queue_of(place), place.home / "turns-flood.json"
    workers = [place.start("echo", "-m", "tests.bench.echo", queue) for _ in range(2)]
    scheduler = place.start_scheduler("--turns", str(noted))
    small, flood = celeriac.graph_of(SMALL), celeriac.graph_of(FLOOD)
    try:
        with Client(place.redis.url) as client:

            def one() -> float:
                begun = time.perf_counter()
                if client.submit(small).wait(60) is not RunState.SUCCEEDED:
                    raise RuntimeError("a small run did not succeed")
                return time.perf_counter() - begun

            one()
            alone = median(one() for _ in range(times))
            wide = client.submit(flood)
            beside: list[float] = []
            while len(beside) < times and wide.state is RunState.RUNNING:
                beside.append(one())
            scheduler.check()
    finally:
        place.stop(*workers, scheduler)
    return alone, median(beside), max(took for took, _ in _read(noted))


def _read(path: Path) -> list[tuple[float, float]]:
    return [(float(took), float(lag)) for took, lag in json.loads(path.read_text())]


def _percentile(ordered: Sequence[float], part: float) -> float:
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)] if ordered else 0.0
