"""streaQ, for the Python of its own environment: `python -m tests.bench.peer_streaq WORKS` (peer_work.py).

Two worker processes with its own defaults (16 tasks at once on one event loop), which print nothing. Graphs are its
`after=`, enqueued in topological order by `enqueue_many`, 500 at a time; a chain is its `then`, in one transaction.
Their ends are looked for 100 times a second: `result()` subscribes, which takes 0.1 s even where a result is there.
State is in the Redis that BENCH_REDIS names; it wants 7.0 or later, for Redis functions.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from streaq import Worker  # type: ignore[import-not-found]  # only in the peers' environment

from .peer_work import TIMEOUT_SECONDS, WORKERS, Work, asked, say, work_for

AT_ONCE = 500
PAUSE_SECONDS = 0.01
worker: Any = Worker(redis_url=os.environ["BENCH_REDIS"])


@worker.task(silent=True)
async def node(*_: Any, task_us: float = 0.0) -> None:
    """The task. A busy one keeps its process from doing anything else, as one of two slots."""
    if task_us:
        work_for(task_us)


async def main() -> None:
    """Run the works, print their seconds."""
    works = asked()
    sys.setrecursionlimit(20_000)  # `then` serializes a chain by recursion
    with workers():
        async with worker:
            await warm_up()
            for work in works:
                say(work, await (chain if work.shape == "chain" else graphs)(work))


async def graphs(work: Work) -> float:
    """Seconds for all its graphs; over when the last results are there."""
    up = work.graph().up
    tasks: list[Any] = []
    for first in range(0, work.times * len(up), len(up)):
        for needs in up:
            task = node.enqueue(task_us=work.task_us)
            tasks.append(task.start(after=[tasks[first + it].id for it in needs]) if needs else task)
    ends = [tasks[first + at] for first in range(0, len(tasks), len(up)) for at in work.ends()]
    start = time.perf_counter()
    for at in range(0, len(tasks), AT_ONCE):
        await worker.enqueue_many(tasks[at : at + AT_ONCE])
    await there(ends)
    seconds = time.perf_counter() - start
    await succeeded(ends[-1])
    return seconds


async def chain(work: Work) -> float:
    """Seconds for a chain."""
    last = node.enqueue(task_us=work.task_us)
    for _ in range(work.sizes[0] - 1):
        last = last.then(node, task_us=work.task_us)
    start = time.perf_counter()
    await last
    await there([last])
    seconds = time.perf_counter() - start
    await succeeded(last)
    return seconds


async def warm_up() -> None:
    """Until every worker has done something."""
    seen: set[str] = set()
    end = time.monotonic() + 60
    while len(seen) < WORKERS:
        if time.monotonic() > end:
            raise RuntimeError(f"{len(seen)} of {WORKERS} streaQ workers have done a task in 60 s; their log is above")
        tasks = [node.enqueue() for _ in range(100)]
        await worker.enqueue_many(tasks)
        await there(tasks)
        seen |= {(await task.result(timeout=60)).worker_id for task in tasks[::10]}


async def there(tasks: list[Any]) -> None:
    """Wait until all results are there.

    Raises:
        RuntimeError: they did not come.
    """
    keys = [worker.results_key + task.id for task in tasks]
    end = time.monotonic() + TIMEOUT_SECONDS
    while (found := await worker.redis.exists(keys)) < len(keys):
        if time.monotonic() > end:
            raise RuntimeError(f"streaQ: {found} of {len(keys)} results after {TIMEOUT_SECONDS:.0f} s")
        await asyncio.sleep(PAUSE_SECONDS)  # between two looks


async def succeeded(task: Any) -> None:
    """Look at its result.

    Raises:
        RuntimeError: it failed.
    """
    found = await task.result(timeout=60)
    if not found.success:
        raise RuntimeError(f"a streaQ task failed: {found.exception}")


@contextmanager
def workers() -> Iterator[None]:
    """Its processes."""
    argv = [sys.executable, "-m", "tests.bench.peer_streaq", "worker"]
    children = [subprocess.Popen(argv, stdout=sys.stderr) for _ in range(WORKERS)]
    try:
        yield
    finally:
        for child in children:
            child.terminate()
        for child in children:
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        worker.run_sync()
    else:
        asyncio.run(main())
