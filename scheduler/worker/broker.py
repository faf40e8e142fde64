"""How a worker comes back to its broker: soon, however long the broker was away.

kombu's pauses between two tries grow by two seconds each, up to thirty, and no setting of Celery's says otherwise.
After an outage of half a minute a worker would stay away for up to twelve seconds more.
"""

from __future__ import annotations

from typing import Any

from kombu.connection import Connection

LONGEST_PAUSE_SECONDS = 5.0


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
