"""Celery's pool of threads, left in good order.

At a soft or cold shutdown Celery stops the pool from its signal handler, that is in the middle of whatever the main
thread was at. Was that `ThreadPoolExecutor.submit`, the handler waits for a lock that its own thread holds: the worker
stood still for ever, and its heartbeat went on renewing what it had. (Seen in 1 of 3 runs of row 26 of the fault plan;
the pool itself says signal_safe = False.) Here the handler leaves the pool alone, and the consumer's loop, which it
ends, waits for the threads while they can still acknowledge.
"""

from __future__ import annotations

from typing import Any

from celery.concurrency import get_implementation
from celery.utils.imports import symbol_by_name


def leaving_pool(chosen: Any) -> Any:
    """What a worker is to use as its pool: the one chosen, or for threads a class of it that can be left.

    Args:
        chosen: a name, path or class, as Celery takes it.
    """
    pool = get_implementation(chosen)
    threads: Any = symbol_by_name("celery.concurrency.thread:TaskPool")
    if not issubclass(pool, threads) or issubclass(pool, _Leaving):
        return pool
    return type(pool.__name__, (_Leaving, pool), {"__module__": pool.__module__})


def cannot_stop(pool: Any) -> bool:
    """Whether what runs in this pool can only be waited for."""
    return isinstance(pool, _Leaving)


def let_finish(pool: Any) -> None:
    """Called where the consumer's loop was ended: wait for what runs in threads, and drop what waits for one."""
    if cannot_stop(pool):
        pool.finish()


class _Leaving:
    """What is laid over the pool's class."""

    RUN: int
    executor: Any
    _state: Any

    def on_stop(self) -> None:
        """Only Celery's signal handler stops a pool that has not been closed first."""
        if self._state != self.RUN:
            base: Any = super()
            base.on_stop()

    def on_terminate(self) -> None:
        """The worker ends in a hurry; Celery would leave the threads, and what waits for them, to the interpreter."""
        self.finish()

    def finish(self) -> None:
        self.executor.shutdown(cancel_futures=True)
