"""A job for a pool of processes, before its loop turns again: python -m tests.acceptance.worker.handed.

A process of its own, because it forks some. Prints what it saw, a line each.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from celery import Celery
from kombu.asynchronous import Hub, set_event_loop

from scheduler.worker.pools import pool_of


def main() -> None:
    """Jobs for two processes: of a size that a pipe takes whole, larger, and more than there are processes."""
    app = Celery("handed", broker="memory://")
    hub: Any = Hub()
    set_event_loop(hub)
    pool = pool_of("prefork")(2, app=app, threads=False, putlocks=False, initargs=(app, "here"), sched_strategy="fair")
    pool.start()
    pool.register_with_event_loop(hub)
    pool.register_with_event_loop(hub)  # as when a consumer begins again
    tell("the loop looks after it once", len(hub.on_tick) == 1)
    turns = hub.create_loop()
    inner, ended = pool._pool, list[Any]()

    def apply(*args: Any) -> None:
        pool.apply_async(max, args, callback=ended.append, accept_callback=lambda *_a, **_k: None)

    def until(holds: Callable[[], bool]) -> bool:
        end = time.monotonic() + 20
        while not holds() and time.monotonic() < end:
            next(turns)
        return holds()

    tell("both processes are up", until(lambda: len(inner._all_inqueues) == 2))
    apply("a", "b")
    tell("a job is with a process at once", not inner.outbound_buffer and len(inner._busy_workers) == 1)
    tell("it is whole", not inner._active_writes)
    large = "x" * 500_000
    apply("a", large)
    tell("so is one that a pipe takes in pieces", not inner.outbound_buffer and len(inner._busy_workers) == 2)
    apply("c", "d")
    tell("one that no process waits for waits", len(inner.outbound_buffer) == 1)
    tell("all of them end", until(lambda: len(ended) == 3) and sorted(ended) == sorted(["b", "d", large]))
    next(turns)
    tell("and nothing is left to look after", not (inner.outbound_buffer or inner._busy_workers or hub.writers))
    pool.terminate()


def tell(what: str, holds: bool) -> None:
    """A line for whoever started this."""
    sys.stdout.write(f"{what}: {holds}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
