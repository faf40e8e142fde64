"""Dask distributed, for the Python of its own environment: `python -m tests.bench.peer_dask WORKS` (peer_work.py).

A scheduler process and two workers of one thread, as its command line starts them, without nannies. Graphs are given as
dictionaries to one `Client.get`, the fastest of get, delayed and submit; a chain as futures, each the argument of
the next. All of it stays in memory.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed import Client  # type: ignore[import-not-found]  # only in the peers' environment

from .peer_work import TIMEOUT_SECONDS, WORKERS, Work, asked, say, work_for

LOOPBACK = ("--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0")
"""Without a dashboard it still answers HTTP, by default on every interface."""


def node(task_us: float, *_: Any) -> None:
    """The task."""
    if task_us:
        work_for(task_us)


def main() -> None:
    """Run the works, print their seconds."""
    works = asked()
    with cluster() as client:
        for run in (graph, chain):
            run(client, Work("warm up", "chain", (50,)), "warm")
        for work in works:
            say(work, (chain if work.shape == "chain" else graph)(client, work, work.name))


def graph(client: Any, work: Work, tag: str) -> float:
    """Seconds for all its graphs, sent in one piece."""
    up = work.graph().up
    tasks = {
        f"{tag}-{turn}-{at}": (node, work.task_us, *[f"{tag}-{turn}-{it}" for it in needs])
        for turn in range(work.times)
        for at, needs in enumerate(up)
    }
    ends = [f"{tag}-{turn}-{at}" for turn in range(work.times) for at in work.ends()]
    start = time.perf_counter()
    client.get(tasks, ends)
    return time.perf_counter() - start


def chain(client: Any, work: Work, tag: str) -> float:
    """Seconds for a chain of futures."""
    start = time.perf_counter()
    last = client.submit(node, work.task_us, key=f"{tag}-chain-0")
    for at in range(1, work.sizes[0]):
        last = client.submit(node, work.task_us, last, key=f"{tag}-chain-{at}")
    last.result(TIMEOUT_SECONDS)
    return time.perf_counter() - start


@contextmanager
def cluster() -> Iterator[Any]:
    """Its processes, and a client that sees all workers."""
    children: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="bench-dask-") as home:
        known = Path(home) / "scheduler.json"

        def start(what: str, *options: str) -> None:
            argv = [sys.executable, "-m", "dask", what, *LOOPBACK, "--scheduler-file", str(known), *options]
            children.append(subprocess.Popen(argv, stdout=sys.stderr))

        try:
            start("scheduler", "--port", "0")
            end = time.monotonic() + 60
            while not known.exists():
                if time.monotonic() > end or children[0].poll() is not None:
                    raise RuntimeError("Dask's scheduler did not start; its log is above")
                time.sleep(0.05)  # between two looks
            for at in range(WORKERS):
                start("worker", "--nthreads", "1", "--no-nanny", "--local-directory", f"{home}/{at}")
            with Client(scheduler_file=str(known)) as client:
                client.wait_for_workers(WORKERS, timeout=60)
                yield client
        finally:
            for child in reversed(children):  # a worker without a scheduler would look for it
                stop(child)


def stop(child: subprocess.Popen[bytes]) -> None:
    """End a process."""
    child.terminate()
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


if __name__ == "__main__":
    main()
