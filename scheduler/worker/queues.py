"""The worker's side of RabbitMQ: how a queue is declared, and what happens when the broker closes a channel.

RabbitMQ refuses a declaration that differs from the one before it, so worker and scheduler must agree. `celeriac
worker` tells the arguments of its class's queue in the environment; they are laid over the queue that Celery is about
to declare. A queue that the app itself has given arguments stays as the app says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from celery.bootsteps import StartStopStep
from celery.exceptions import WorkerShutdown, WorkerTerminate

from ..errors import SettingsError
from .pools import hear_begun, let_finish

ARGUMENTS = "CELERIAC_QUEUE_ARGUMENTS"
"""Environment variable: JSON object, queue -> arguments. Made by `celeriac worker` (worker/options.py)."""


def declare_as_told(app: Any) -> None:
    """Lay the arguments of the environment over the queues that this worker consumes from. Before it connects.

    Raises:
        SettingsError: the variable is no JSON object of objects.
    """
    text = os.environ.get(ARGUMENTS)
    if not text:
        return
    try:
        told = json.loads(text)
        found = {str(queue): dict(arguments) for queue, arguments in told.items()}
    except (ValueError, TypeError, AttributeError):
        raise SettingsError(ARGUMENTS, f"found {text[:200]!r}", "Give a JSON object, queue -> arguments.") from None
    for name, queue in app.amqp.queues.consume_from.items():
        if name in found and not queue.queue_arguments:
            queue.queue_arguments = found[name]


_TIMED_OUT = "delivery acknowledgement"
"""What RabbitMQ says when a message has been out for longer than its consumer_timeout, thirty minutes by default."""


class Patience(StartStopStep):
    """A consumer step of Celery's: the broker's consumer_timeout costs a worker its connection and not its life.

    The broker closes the channel and delivers the messages again; Celery would end the worker over it. The claim
    refuses what runs already, so connecting anew is all that is needed.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        """Before the consumer's loop starts, each time."""
        if not isinstance(parent.loop, _Loop):
            parent.loop = _Loop(parent.loop)


class _Loop:
    """The consumer's event loop."""

    def __init__(self, own: Callable[..., Any]) -> None:
        self.own = own

    def __call__(self, *args: Any) -> Any:
        from amqp.exceptions import PreconditionFailed, RecoverableConnectionError

        try:
            return self.own(*args)
        except WorkerShutdown:
            hear_begun(args[0].pool)
            raise
        except WorkerTerminate:
            let_finish(args[0])
            raise
        except PreconditionFailed as closed:
            if _TIMED_OUT not in str(closed):
                raise
            raise RecoverableConnectionError(str(closed)) from closed
