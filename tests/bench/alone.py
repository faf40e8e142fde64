"""The scheduler alone, with echo workers on an otherwise empty Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from scheduler import Client

from . import celeriac, shapes
from .place import Child, Place

WARM_UP = shapes.layers(10, 100)


@dataclass(frozen=True, slots=True)
class Cost:
    """What the nodes of some runs took.

    Attributes:
        rate: nodes a second, from the moment that a graph is stored to the end of its run.
        scheduler_us, redis_us: CPU of a node.
        redis_bytes: of a node, kept when its run has ended.
        scheduler_bytes: of a node: the most that the scheduler's resident memory grew by while the run was live.
        submit_seconds: one Client.submit, from the built graph to stored.
    """

    rate: float
    scheduler_us: float
    redis_us: float
    redis_bytes: float
    scheduler_bytes: float
    submit_seconds: float


@dataclass(frozen=True, slots=True)
class Alone:
    """One scheduler process, and the echo workers that it keeps busy."""

    place: Place
    scheduler: Child
    workers: list[Child]
    client: Client

    def run(self, shape: shapes.Shape, times: int = 1) -> Cost:
        """Run a graph `times` times, one after the other."""
        graph = celeriac.graph_of(shape)
        rss = most = self.scheduler.rss_bytes()

        def look() -> None:
            nonlocal most
            most = max(most, self.scheduler.rss_bytes())

        redis, cpu, start = self.place.usage(), self.scheduler.cpu_seconds(), time.perf_counter()
        submit = 0.0
        for _ in range(times):
            submit += celeriac.run_watched(
                self.place, self.client, graph, self.scheduler, *self.workers, look=look
            ).submit
        seconds, cpu, after = time.perf_counter() - start, self.scheduler.cpu_seconds() - cpu, self.place.usage()
        nodes = times * len(shape)
        return Cost(
            nodes / (seconds - submit),
            cpu / nodes * 1e6,
            (after.cpu_seconds - redis.cpu_seconds) / nodes * 1e6,
            (after.memory_bytes - redis.memory_bytes) / nodes,
            (most - rss) / len(shape),
            submit / times,
        )


@contextmanager
def alone(place: Place, workers: int, *options: str) -> Iterator[Alone]:
    """A fresh scheduler with `options` and echo workers, warmed up; the Redis is emptied before."""
    place.clear()
    celeriac.publish_contract(place)
    queue = celeriac.queue_of(place)
    started = [place.start_scheduler(*options)]
    try:
        started += [place.start("echo", "-m", "tests.bench.echo", queue) for _ in range(workers)]
        with Client(place.redis.url) as client:
            it = Alone(place, started[0], started[1:], client)
            it.run(WARM_UP)
            yield it
    finally:
        place.stop(*reversed(started))
