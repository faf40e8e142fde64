"""Celery's pools of threads and of processes: quick to begin what they are given, and left in good order.

**To begin.** Celery writes a job to a process in the round of its loop after the one that brought it, its length and
the rest apart, and looks at every pipe in each round. A job that some process waits for is written at once here, in one
piece where a pipe takes it whole. The claim of an attempt is asked for where its tracer is called (early.py).

**To leave.** At a soft or cold shutdown Celery stops the pool from its signal handler, that is in the middle of
whatever the main thread was at. Was that `ThreadPoolExecutor.submit`, the handler waits for a lock that its own thread
holds. Was it the reading of a process's result, the handler waits for that very result, which is out of the pipe and
not yet known. The worker stood still for ever, and its heartbeat went on renewing what it had. (Stacks of both were
taken in runs of the fault plan and of the tests.) Here the handler leaves the pool alone, and the consumer's loop,
which it ends, stops it: there results are still read, and threads can still acknowledge. A process that has begun
without the main thread's knowing is heard first: Celery forgets its job, and waits for its process until that is done.
"""

from __future__ import annotations

import select
import time
from contextlib import suppress
from inspect import isgenerator
from typing import Any

from celery.concurrency import get_implementation
from celery.utils.imports import symbol_by_name

from .early import asking

HEARD_SECONDS = 1.0
"""So long at most a worker that stops waits for word of what has begun."""
WHOLE_BYTES = getattr(select, "PIPE_BUF", 512)
"""A pipe takes so much whole or not at all."""


def pool_of(chosen: Any) -> Any:
    """What a worker is to use as its pool: the one chosen, or for threads and processes a class of it made ours.

    Args:
        chosen: a name, path or class, as Celery takes it.
    """
    pool = get_implementation(chosen)
    if issubclass(pool, _Pool):
        return pool
    for path, ours in _OURS.items():
        own: Any = symbol_by_name(path)
        if issubclass(pool, own):
            return type(pool.__name__, (ours, pool), {"__module__": pool.__module__})
    return pool


def cannot_stop(pool: Any) -> bool:
    """Whether what runs in this pool can only be waited for."""
    return isinstance(pool, _Threads)


def hear_begun(pool: Any) -> None:
    """Called where the consumer's loop was ended: what has begun is known to have, so that Celery waits for its end."""
    if isinstance(pool, _Processes):
        pool.hear_begun()


def let_finish(consumer: Any) -> None:
    """Called where the consumer's loop was ended in a hurry: end what has begun and was not known to have, wait for
    what runs and cannot be stopped, and read what has ended.
    """
    pool = consumer.pool
    if isinstance(pool, _Pool):
        hear_begun(pool)
        consumer.cancel_active_requests()
        pool.finish()


class _Pool:
    """What is laid over the pool's class."""

    RUN: int
    _state: Any

    def apply_async(self, target: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """What Celery's requests call, with one of its tracers."""
        base: Any = super()
        return base.apply_async(*asking(target, args), kwargs, **options)

    def on_stop(self) -> None:
        """Only Celery's signal handler stops a pool that has not been closed first."""
        if self._state != self.RUN:
            base: Any = super()
            base.on_stop()

    def finish(self) -> None:
        """The signal handler has passed; what it left out."""
        base: Any = super()
        base.on_stop()


class _Threads(_Pool):
    """Threads, which Celery would leave to the interpreter, with what waits for them."""

    executor: Any

    def on_terminate(self) -> None:
        """The worker ends in a hurry."""
        self.finish()

    def finish(self) -> None:
        self.executor.shutdown(cancel_futures=True)


class _Processes(_Pool):
    """Processes: those that were told to end have ended, and what they have said is known."""

    _pool: Any
    _hub: Any = None

    def hear_begun(self) -> None:
        """Read what processes say until each job that one of them was given is known to have begun; for a moment, for a
        process may have died. Celery forgets all others, and would wait for those that run without an end.
        """
        until = time.monotonic() + HEARD_SECONDS
        while self._hub is not None and self._pool is not None and time.monotonic() < until:
            jobs = list(self._pool._cache.values())
            if all(job._accepted or job._write_to is None for job in jobs):
                return
            for fd in list(self._pool._fileno_to_outq):
                self._read(fd)
            time.sleep(0.002)

    def _read(self, fd: int) -> None:
        """What the loop does when a process has said something."""
        callback, args = self._hub.readers.get(fd, (None, ()))
        if isgenerator(callback):  # in the middle of a message
            with suppress(StopIteration, OSError, EOFError):
                next(callback)
        elif callback is not None:
            callback(*args)

    def register_with_event_loop(self, loop: Any) -> None:
        """Called for each loop of the consumer; Celery's pool makes its ways of writing anew then."""
        base: Any = super()
        base.register_with_event_loop(loop)
        self._hub = loop
        if hasattr(self._pool, "on_poll_start"):  # not the pool of a worker without a loop
            _write_at_once(self._pool, loop)


_OURS: dict[str, type[_Pool]] = {
    "celery.concurrency.thread:TaskPool": _Threads,
    "celery.concurrency.prefork:TaskPool": _Processes,
}


def _write_at_once(pool: Any, hub: Any) -> None:
    """A job goes to a process that waits for one without another round of the loop.

    Args:
        pool: Celery's AsynPool.
        hub: kombu's loop.
    """
    put, look, write = pool._quick_put, pool.on_poll_start, hub.consolidate_callback

    def put_and_write(told: Any) -> None:
        put(told)
        job = pool._cache[told[1][0]]
        header, body, size = job._payload
        if len(header) + size <= WHOLE_BYTES:
            job._payload = memoryview(bytes(header) + bytes(body)), memoryview(b""), 0
        if idle := pool._all_inqueues - pool._busy_workers - pool._active_writes:
            write(list(idle))

    def look_if_any() -> None:
        """At each round of the loop: which pipes are to be watched, where a job waits or one is watched."""
        if pool.outbound_buffer or hub.writers:
            look()

    pool._quick_put = put_and_write
    if look in hub.on_tick:  # where Celery puts it once, for the first loop
        hub.on_tick.remove(look)
        hub.on_tick.add(look_if_any)
