"""How a worker comes back: to its broker soon, however long that was away; from a connection or a process that is gone.

Four places where Celery and kombu take longer than they must, or end the worker, put right from outside. kombu's
pauses between two tries grow by two seconds each, up to thirty, and no setting of Celery's says otherwise: after an
outage of half a minute a worker would stay away for up to twelve seconds more. And they never end: a worker that is
told to stop while its broker is away would try for ever to send an event that says how it is.
"""

from __future__ import annotations

from typing import Any

from celery.utils.imports import symbol_by_name
from kombu.connection import Connection

from .broker import stopping

LONGEST_PAUSE_SECONDS = 5.0
LOOK_AGAIN_SECONDS = (0.05, 0.5)


def come_back_soon(app: Any) -> None:
    """Bound the pauses of every connection that the app makes from now on."""
    made = app.amqp.Connection
    if not issubclass(made, _Soon):
        app.amqp.Connection = type(made.__name__, (_Soon, made), {"__module__": __name__})


class _Soon(Connection):
    """What is laid over the app's class of connections."""

    def ensure_connection(self, errback: Any = None, max_retries: Any = None, *args: Any, **kwargs: Any) -> Any:
        """What kombu does, unless the caller says how long the pauses may grow."""
        if not args:
            kwargs.setdefault("interval_max", LONGEST_PAUSE_SECONDS)
        base: Any = super()
        return base.ensure_connection(errback, max_retries, *args, **kwargs)

    def _ensure_connection(self, errback: Any = None, *args: Any, **kwargs: Any) -> Any:
        """What kombu does for every caller, but a worker that is told to stop tries no more."""

        def failed(problem: BaseException, pause: float) -> None:
            if stopping():
                raise problem
            if errback:
                errback(problem, pause)

        base: Any = super()
        return base._ensure_connection(failed, *args, **kwargs)


def guard_channels() -> None:
    """Let kombu's Redis channels say what they are after their connection was given up: without one.

    Celery gives a lost connection up and then closes its channels. One that still has messages to put back looks for
    an address that is gone; its AttributeError is no error of a connection, so it ended the worker: seen at every third
    kill -9 of a Redis under load.
    """
    try:
        channels: Any = symbol_by_name("kombu.transport.redis:Channel")
    except ImportError:  # this worker's broker is another one
        return
    own = channels._connparams
    if getattr(own, "celeriac", False):
        return

    def connparams(channel: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(channel.connection, "client", None) is None:
            raise ConnectionResetError("the connection of this channel to the broker was given up")
        return own(channel, *args, **kwargs)

    connparams.celeriac = True  # type: ignore[attr-defined]  # said to ourselves, so that it is laid over once
    channels._connparams = connparams


def guard_pool() -> None:
    """Let the prefork pool look again for a process that has just died.

    A dying process closes its pipe a moment before it can be collected. Celery looks when the pipe closes, and when
    it looked too early only five seconds later: so long its attempt seemed to go on.
    """
    pool: Any = symbol_by_name("celery.concurrency.asynpool:AsynPool")
    own = pool._event_process_exit
    if getattr(own, "celeriac", False):
        return

    def event_process_exit(self: Any, hub: Any, process: Any) -> None:
        own(self, hub, process)
        for seconds in LOOK_AGAIN_SECONDS:
            hub.call_later(seconds, self.maintain_pool)

    event_process_exit.celeriac = True  # type: ignore[attr-defined]  # as above
    pool._event_process_exit = event_process_exit
