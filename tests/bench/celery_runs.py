"""How stock Celery is driven, as research found it at its best: raw tasks with the queue filled first, and canvas."""

from __future__ import annotations

import json
import secrets
import time

from celery import chain, chord, group

from .place import Child, Place
from .reference import QUEUE, app, bell, next_row, node

_STAGED = f"{QUEUE}-staged"
TIMEOUT_SECONDS = 300.0


def raw(place: Place, tasks: int, worker: Child) -> float:
    """Seconds that the worker alone takes for a queue of no-op tasks that is full before it begins.

    The tasks are sent to a queue that nobody reads, which then gets the name of the worker's queue. All are done when
    their results are there and the broker holds none: a look at three numbers, 50 times a second.
    """
    with app.producer_pool.acquire() as producer:
        for _ in range(tasks):
            node.apply_async(queue=_STAGED, producer=producer)
    client = place.client
    other = client.dbsize() - 1

    def done() -> bool:
        with client.pipeline(transaction=False) as pipe:
            keys, queued, unacked = pipe.dbsize().llen(QUEUE).exists("unacked").execute()
        return bool(keys >= other + tasks and not queued and not unacked)

    start = time.perf_counter()
    client.rename(_STAGED, QUEUE)
    place.until(done, f"{tasks} raw tasks", worker, seconds=TIMEOUT_SECONDS)
    return time.perf_counter() - start


def raw_hops(place: Place, count: int) -> float:
    """Seconds in which so many messages go through the stock worker one after the other, each when the one before has
    rung: what a hop takes without any scheduler. The message is made once.
    """
    client, key = place.client, f"{QUEUE}-bell"
    bell.apply_async((key,), queue=_STAGED)
    message = client.lpop(_STAGED)
    start = time.perf_counter()
    for _ in range(count):
        client.lpush(QUEUE, message)
        if client.blpop([key], TIMEOUT_SECONDS) is None:
            raise RuntimeError("the worker did not ring")
    return time.perf_counter() - start


def canvas_chain(length: int) -> float:
    """Seconds for a chain."""
    return _got(chain(*(node.si() for _ in range(length))))


def canvas_fan(width: int) -> float:
    """Seconds for 1 -> width -> 1: a chord."""
    return _got(chain(node.si(), group(node.si() for _ in range(width)), node.si()))


def canvas_diamonds(count: int) -> float:
    """Seconds for diamonds that are all sent before the first is waited for."""
    made = [chain(node.si(), group(node.si(), node.si()), node.si()) for _ in range(count)]
    start = time.perf_counter()
    for result in [it.apply_async() for it in made]:
        result.get(timeout=TIMEOUT_SECONDS)
    return time.perf_counter() - start


def canvas_rows(place: Place, up: list[list[int]], width: int) -> float:
    """Seconds for a graph of rows: one chord per row, started by the body of the chord before it."""
    graph = f"rows:{secrets.token_hex(4)}"
    start = time.perf_counter()
    rows = {str(at // width): json.dumps(up[at : at + width]) for at in range(width, len(up), width)}
    place.client.hset(graph, mapping=rows)
    chord([node.si() for _ in range(width)])(next_row.s(graph, 1))
    end = time.monotonic() + TIMEOUT_SECONDS
    while place.client.blpop(f"{graph}:over", timeout=5) is None:
        if time.monotonic() > end:
            raise RuntimeError(f"canvas did not finish {len(rows) + 1} rows of {width} in {TIMEOUT_SECONDS:.0f} s")
    return time.perf_counter() - start


def forget_results(place: Place) -> None:
    """Remove the results that the references left."""
    for pattern in ("celery-task-meta-*", "rows:*"):
        keys = list(place.client.scan_iter(pattern, count=10_000))
        for at in range(0, len(keys), 5000):
            place.client.unlink(*keys[at : at + 5000])


def close() -> None:
    """No more words with Redis: Celery keeps handles of chords to the process's end, which would unsubscribe then."""
    app.backend.remove_pending_result = lambda result: result
    app.close()


def _got(made: object) -> float:
    start = time.perf_counter()
    made.apply_async().get(timeout=TIMEOUT_SECONDS)  # type: ignore[attr-defined]  # celery has no types
    return time.perf_counter() - start
