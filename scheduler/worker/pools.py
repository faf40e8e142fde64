"""Celery's pools of threads and of processes, left in good order.

At a soft or cold shutdown Celery stops the pool from its signal handler, that is in the middle of whatever the main
thread was at. Was that `ThreadPoolExecutor.submit`, the handler waits for a lock that its own thread holds. Was it the
reading of a process's result, the handler waits for that very result, which is out of the pipe and not yet known. The
worker stood still for ever, and its heartbeat went on renewing what it had. (Stacks of both were taken in runs of the
fault plan and of the tests.) Here the handler leaves the pool alone, and the consumer's loop, which it ends, stops it:
there results are still read, and threads can still acknowledge.
"""

from __future__ import annotations

from typing import Any

from celery.concurrency import get_implementation
from celery.utils.imports import symbol_by_name


def leaving_pool(chosen: Any) -> Any:
    """What a worker is to use as its pool: the one chosen, or for threads and processes a class of it that can be left.

    Args:
        chosen: a name, path or class, as Celery takes it.
    """
    pool = get_implementation(chosen)
    if issubclass(pool, _Leaving):
        return pool
    for path, leaving in _WAYS.items():
        own: Any = symbol_by_name(path)
        if issubclass(pool, own):
            return type(pool.__name__, (leaving, pool), {"__module__": pool.__module__})
    return pool


def cannot_stop(pool: Any) -> bool:
    """Whether what runs in this pool can only be waited for."""
    return isinstance(pool, _LeavingThreads)


def let_finish(pool: Any) -> None:
    """Called where the consumer's loop was ended: wait for what runs and cannot be stopped, and read what has ended."""
    if isinstance(pool, _Leaving):
        pool.finish()


class _Leaving:
    """What is laid over the pool's class."""

    RUN: int
    _state: Any

    def on_stop(self) -> None:
        """Only Celery's signal handler stops a pool that has not been closed first."""
        if self._state != self.RUN:
            base: Any = super()
            base.on_stop()

    def finish(self) -> None:
        """The signal handler has passed; what it left out."""
        base: Any = super()
        base.on_stop()


class _LeavingThreads(_Leaving):
    """For threads, which Celery would leave to the interpreter, with what waits for them."""

    executor: Any

    def on_terminate(self) -> None:
        """The worker ends in a hurry."""
        self.finish()

    def finish(self) -> None:
        self.executor.shutdown(cancel_futures=True)


class _LeavingProcesses(_Leaving):
    """For processes: those that were told to end have ended, and what they have said is known."""


_WAYS: dict[str, type[_Leaving]] = {
    "celery.concurrency.thread:TaskPool": _LeavingThreads,
    "celery.concurrency.prefork:TaskPool": _LeavingProcesses,
}
