"""Does a node cost the same in a run of 1,000,000, and among 10,000 runs, from the first tenth to the last?

One graph of layers 1,000 wide, then graphs of 100 nodes; echo workers, one scheduler, one Redis with its append-only
file. All is stored before the workers begin, so what changes over a run is only how many nodes have ended: a rate that
falls from tenth to tenth, or CPU a node that rises, is a cost that grows with it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import psutil

from scheduler import Client, Graph, RunHandle, RunState
from scheduler.store.keys import Keys
from scheduler.wire import shard_of

from . import celeriac, shapes
from .figures import shown, table
from .place import Child, Place, Usage
from .sections import ECHO_WORKERS, Section

NODES = 1_000_000
WIDE = 1000
SMALL = shapes.layers(10, 10)
TENTHS = 10
SAMPLE = 100
"""Of many runs so many are looked at while they run; they run side by side."""
LOOK_SECONDS = 0.2
TIMEOUT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Look:
    """What had been used, and how many nodes had ended, at one instant (seconds)."""

    at: float
    ended: float
    scheduler_cpu: float
    redis_cpu: float

    def towards(self, later: Look, ended: float) -> Look:
        """The instant between two looks at which so many nodes had ended, as if all went evenly in between."""
        part = (ended - self.ended) / (later.ended - self.ended)

        def between(a: float, b: float) -> float:
            return a + part * (b - a)

        return Look(
            between(self.at, later.at),
            ended,
            between(self.scheduler_cpu, later.scheduler_cpu),
            between(self.redis_cpu, later.redis_cpu),
        )


@dataclass(slots=True)
class Course:
    """How it went.

    Attributes:
        looks: from the start of the workers to the end.
        submit: seconds until everything was stored.
        before: of Redis, before the first submit.
        scheduler_cpu, redis_cpu: seconds of CPU, submits included.
        scheduler_bytes, redis_bytes: the most that was resident.
        data_bytes: the most that Redis's data took.
        kept_bytes: what the ended runs take in Redis.
    """

    nodes: int
    submit: float = 0.0
    looks: list[Look] = field(default_factory=list)
    scheduler_cpu: float = 0.0
    redis_cpu: float = 0.0
    scheduler_bytes: int = 0
    redis_bytes: int = 0
    data_bytes: int = 0
    kept_bytes: int = 0

    def tenths(self) -> list[tuple[float, float, float]]:
        """(nodes a second, scheduler's us of CPU a node, Redis's) of each tenth of the nodes."""
        marks = tenths_of(self.looks, self.nodes)
        each = self.nodes / TENTHS
        return [
            (
                each / (b.at - a.at),
                (b.scheduler_cpu - a.scheduler_cpu) / each * 1e6,
                (b.redis_cpu - a.redis_cpu) / each * 1e6,
            )
            for a, b in pairwise(marks)
        ]


def tenths_of(looks: Sequence[Look], nodes: int) -> list[Look]:
    """The first look, and the instants at which each further tenth of the nodes had ended.

    >>> steady = [Look(0.0, 0, 0, 0), Look(1.0, 40, 1, 1), Look(3.0, 100, 2, 2)]
    >>> [round(it.at, 2) for it in tenths_of(steady, 100)][:6]
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.33]
    """
    marks = [looks[0]]
    later = iter(looks[1:])
    a, b = looks[0], next(later)
    for tenth in range(1, TENTHS + 1):
        ended = nodes * tenth / TENTHS
        while b.ended < ended:
            a, b = b, next(later)
        marks.append(a.towards(b, ended))
    return marks


def million(place: Place, nodes: int) -> Section:
    """Both ways to have so many nodes."""
    shape = shapes.layers(max(nodes // WIDE, 1), WIDE)
    start = time.perf_counter()
    graph = celeriac.graph_of(shape)
    built = time.perf_counter() - start
    times = max(nodes // len(SMALL), 1)
    wide = run(place, graph, 1)
    name = shape.name
    del graph, shape  # a gigabyte, which the next should not find
    small = run(place, celeriac.graph_of(SMALL), times)
    columns = {f"one run, {name}": wide, f"{times:,} runs of {len(SMALL)}": small}
    text = f"{_totals(columns)}\n\n{_tenths(columns)}\n\nthe graph was built in {shown(built)} s"
    values = _values("million", wide) | _values("million_small", small)
    return Section(f"{nodes:,} nodes, {ECHO_WORKERS} echo workers", text, values)


def run(place: Place, graph: Graph, times: int) -> Course:
    """Store the graph so many times, then let the workers begin."""
    with scheduler(place) as child, Client(place.redis.url) as client:
        course = Course(len(graph) * times)
        before, cpu = place.usage(), child.cpu_seconds()
        start = time.perf_counter()
        runs = [client.submit(graph) for _ in range(times)]
        course.submit = time.perf_counter() - start
        ended = _ended(place, runs, len(graph))
        queue = celeriac.queue_of(place)
        workers = [place.start("echo", "-m", "tests.bench.echo", queue) for _ in range(ECHO_WORKERS)]
        try:
            _watch(place, course, ended, child, *workers)
        finally:
            place.stop(*workers)
        after = place.usage()
        course.scheduler_cpu = child.cpu_seconds() - cpu
        course.redis_cpu = after.cpu_seconds - before.cpu_seconds
        course.kept_bytes = after.memory_bytes - before.memory_bytes
        states = {it.state for it in runs}
        if states != {RunState.SUCCEEDED}:
            raise RuntimeError(f"{times} runs ended as {sorted(states)}; all should have succeeded")
    return course


@contextmanager
def scheduler(place: Place) -> Iterator[Child]:
    """A fresh scheduler on an emptied Redis, without workers."""
    place.clear()
    celeriac.publish_contract(place)
    child = place.start_scheduler()
    try:
        yield child
    finally:
        place.stop(child)


def _watch(place: Place, course: Course, ended: Callable[[], float], child: Child, *workers: Child) -> None:
    """Look until all nodes have ended. One look costs Redis a millisecond or less."""
    process = psutil.Process(place.redis.pid)

    def look() -> bool:
        used: Usage = place.usage()
        course.scheduler_bytes = max(course.scheduler_bytes, child.rss_bytes())
        course.redis_bytes = max(course.redis_bytes, int(process.memory_info().rss))
        course.data_bytes = max(course.data_bytes, used.memory_bytes)
        course.looks.append(Look(time.perf_counter(), ended(), child.cpu_seconds(), used.cpu_seconds))
        return course.looks[-1].ended >= course.nodes

    place.until(
        look, f"the end of {course.nodes:,} nodes", child, *workers, seconds=TIMEOUT_SECONDS, pause=LOOK_SECONDS
    )


def _ended(place: Place, runs: Sequence[RunHandle], size: int) -> Callable[[], float]:
    """Asks how many nodes have ended: of one run exactly, of many by SAMPLE of them until all have ended."""
    keys = Keys(place.settings.namespace)
    shards = range(place.settings.shards)
    sample = [keys.shard(shard_of(it.id, len(shards))).run(it.id) for it in runs[:: max(len(runs) // SAMPLE, 1)]]

    def count() -> float:
        with place.client.pipeline(transaction=False) as pipe:
            for shard in shards:
                pipe.zcard(keys.shard(shard).ended)
            for key in sample:
                pipe.hget(key, "progress")
            found: list[Any] = pipe.execute()
        if sum(found[: len(shards)]) == len(runs):
            return float(len(runs) * size)
        ended = sum(json.loads(it or b"{}").get("succeeded", 0) for it in found[len(shards) :])
        return float(min(ended * len(runs) / len(sample), len(runs) * size - 1))

    return count


def _seconds(course: Course) -> float:
    return course.looks[-1].at - course.looks[0].at


def _bend(course: Course) -> float:
    """The rate of the last tenth by that of the second: in the first the graph is loaded and the workers start."""
    rates = [rate for rate, *_ in course.tenths()]
    return rates[-1] / rates[1]


def _totals(columns: dict[str, Course]) -> str:
    mib = 1 << 20
    facts: dict[str, Callable[[Course], float]] = {
        "submit, s": lambda it: it.submit,
        "workers' start to the end, s": _seconds,
        "nodes a second": lambda it: it.nodes / _seconds(it),
        "rate of the last tenth : the second": _bend,
        "scheduler, us of CPU a node": lambda it: it.scheduler_cpu / it.nodes * 1e6,
        "Redis, us of CPU a node": lambda it: it.redis_cpu / it.nodes * 1e6,
        "scheduler, MiB resident at most": lambda it: it.scheduler_bytes / mib,
        "Redis, MiB resident at most": lambda it: it.redis_bytes / mib,
        "Redis, MiB of data at most": lambda it: it.data_bytes / mib,
        "Redis, bytes a node when all has ended": lambda it: it.kept_bytes / it.nodes,
    }
    return table(
        ["what", *columns], [[name, *(shown(fact(it)) for it in columns.values())] for name, fact in facts.items()]
    )


def _tenths(columns: dict[str, Course]) -> str:
    found = [course.tenths() for course in columns.values()]
    rows = [[f"{at + 1}", *(shown(figure) for tenths in found for figure in tenths[at])] for at in range(TENTHS)]
    head = [name for _ in columns for name in ("nodes/s", "scheduler us/node", "Redis us/node")]
    return f"by tenth of the nodes: {'; then '.join(columns)}\n\n{table(['tenth', *head], rows)}"


def _values(prefix: str, it: Course) -> dict[str, float]:
    tenths = it.tenths()
    return {
        f"{prefix}_submit_seconds": it.submit,
        f"{prefix}_nodes_per_second": it.nodes / _seconds(it),
        f"{prefix}_bend": _bend(it),
        f"{prefix}_scheduler_us_bend": tenths[-1][1] / tenths[1][1],
        f"{prefix}_scheduler_us_per_node": it.scheduler_cpu / it.nodes * 1e6,
        f"{prefix}_redis_us_per_node": it.redis_cpu / it.nodes * 1e6,
        f"{prefix}_scheduler_peak_mib": it.scheduler_bytes / (1 << 20),
        f"{prefix}_redis_peak_mib": it.redis_bytes / (1 << 20),
        f"{prefix}_redis_bytes_per_node": it.kept_bytes / it.nodes,
    }
