"""Do more scheduler processes do more? Runs are shared out among them by shard; one Redis and the cores are common."""

from __future__ import annotations

import time
from dataclasses import dataclass

from scheduler import Client
from scheduler.core.states import RunState

from . import celeriac, shapes
from .figures import Spread, ratio, table
from .place import Place
from .sections import ECHO_WORKERS, Section

PROCESSES = (1, 2, 4)
SHAPE = shapes.layers(50, 100)
RUNS = 16
"""At one time, so that every process has some."""


@dataclass(frozen=True, slots=True)
class Took:
    """What the nodes of all runs took: nodes a second, and us of CPU of all schedulers, and of Redis, a node."""

    rate: float
    schedulers_us: float
    redis_us: float


def scaling(place: Place, repeats: int) -> Section:
    """The same runs through 1, 2 and 4 scheduler processes with echo workers, in turns."""
    found: dict[int, list[Took]] = {count: [] for count in PROCESSES}
    for _ in range(repeats):
        for count, took in found.items():
            took.append(_with(place, count))
    one = [it.rate for it in found[1]]
    rows, values = [], {}
    for count, took in found.items():
        against = ratio([it.rate for it in took], one)
        spreads = [Spread.of(getattr(it, name) for it in took) for name in ("rate", "schedulers_us", "redis_us")]
        rows.append([str(count), *map(str, spreads), str(against)])
        values[f"scaling_{count}_nodes_per_second"] = spreads[0].middle
        values[f"scaling_{count}_vs_1"] = against.middle
    head = ["scheduler processes", "nodes a second", "us of CPU a node, all of them", "Redis", "against one"]
    title = f"Several schedulers: {RUNS} runs of {len(SHAPE):,} nodes at one time, {ECHO_WORKERS} echo workers"
    return Section(title, table(head, rows), values)


def _with(place: Place, count: int) -> Took:
    """All runs through so many processes."""
    place.clear()
    celeriac.publish_contract(place)
    queue = celeriac.queue_of(place)
    schedulers = place.start_schedulers(count)
    workers = [place.start("echo", "-m", "tests.bench.echo", queue) for _ in range(ECHO_WORKERS)]
    try:
        graph = celeriac.graph_of(SHAPE)
        with Client(place.redis.url) as client:
            celeriac.run_all(client, [graph] * count)
            redis, start = place.usage(), time.perf_counter()
            cpu = sum(it.cpu_seconds() for it in schedulers)
            runs = [client.submit(graph) for _ in range(RUNS)]
            place.until(
                lambda: all(run.state is not RunState.RUNNING for run in runs), "all runs end", *schedulers, *workers
            )
            seconds, cpu = time.perf_counter() - start, sum(it.cpu_seconds() for it in schedulers) - cpu
            after = place.usage()
            if any(run.state is not RunState.SUCCEEDED for run in runs):
                raise RuntimeError("a run did not succeed")
    finally:
        place.stop(*workers, *reversed(schedulers))
    nodes = RUNS * len(SHAPE)
    return Took(nodes / seconds, cpu / nodes * 1e6, (after.cpu_seconds - redis.cpu_seconds) / nodes * 1e6)
