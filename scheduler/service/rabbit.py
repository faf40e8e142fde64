"""RabbitMQ: batches with publisher confirms, queues as both sides declare them.

A batch is published without waiting and then confirmed as a whole, so it costs one round trip and not one per
message; what the broker has not confirmed in time, has refused, or could route nowhere makes `send` raise, and all of
the batch is sent again. A queue that is there is used as it is; one that is not is declared with the arguments that
`celeriac worker` declares too (Settings.queue_arguments), for RabbitMQ refuses a declaration that differs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from amqp.exceptions import NotFound, PreconditionFailed
from celery import Celery

from .transport import Outgoing, send_events, task_events

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 5.0
"""The loop stands still while it waits for the broker, and must not lose its shards over that."""
DEAD_LETTERS_KEPT = 10_000
"""Messages that the dead-letter queue holds; the oldest go first. What they were for is in the store."""
_PERSISTENT = 2


class NotTaken(ConnectionError):
    """The broker has not taken every message of a batch."""


class RabbitTransport:
    """One connection and one channel in confirm mode. Some 100 us a message.

    Args:
        app: the scheduler's; it knows the broker.
        arguments: queue -> arguments to declare it with, should it not exist.
    """

    def __init__(self, app: Celery, arguments: Mapping[str, Mapping[str, Any]]) -> None:
        self._app = app
        self._arguments = arguments
        self._connection: Any = None
        self._channel: Any = None
        self._events: Any = None
        self._declared: set[str] = set()
        self._sent = 0
        self._open: set[int] = set()
        self._refused = ""

    # -- connection ---------------------------------------------------------------------------------

    def _connect(self) -> None:
        """A connection and a channel, or an error within a few seconds. Tries each broker of the URL once."""
        if self._connection is None:
            options = {"read_timeout": ANSWER_SECONDS, "write_timeout": ANSWER_SECONDS}
            connection = self._app.connection_for_write(connect_timeout=CONNECT_SECONDS, transport_options=options)
            connection.ensure_connection(max_retries=max(len(connection.alt) - 1, 0))
            self._connection = connection
        if self._channel is None:
            channel = self._channel = self._connection.channel()
            self._sent, self._refused = 0, ""
            self._open.clear()
            channel.confirm_select()
            channel.events["basic_ack"].add(self._on_ack)
            channel.events["basic_nack"].add(self._on_nack)
            channel.events["basic_return"].add(self._on_return)

    def _another_channel(self) -> None:
        """After a refusal: py-amqp has opened the channel again by itself, but it is not in confirm mode any more."""
        self._channel.close()
        self._channel = None
        self._connect()

    def close(self) -> None:
        """Let go of the connection, whatever its state; the next send opens another."""
        connection, self._connection = self._connection, None
        self._channel = self._events = None
        self._declared.clear()
        if connection is not None:
            connection.collect(socket_timeout=1.0)

    def _on_ack(self, tag: int, multiple: bool) -> None:
        if multiple:
            self._open -= {it for it in self._open if it <= tag}
        else:
            self._open.discard(tag)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self._refused = "the broker refused messages"
        self._on_ack(tag, multiple)

    def _on_return(self, error: Exception, exchange: str, queue: str, message: Any) -> None:  # noqa: ARG002  py-amqp's
        self._refused = f"queue {queue} is gone"
        self._declared.discard(queue)

    # -- queues -------------------------------------------------------------------------------------

    def _look(self, queue: str) -> Any:
        """(name, messages ready, consumers) of a queue, or None when there is none; that costs the channel."""
        try:
            return self._channel.queue_declare(queue, passive=True)
        except NotFound:
            self._another_channel()
            return None

    def _declare(self, queue: str) -> None:
        if queue in self._declared:
            return
        arguments = self._arguments.get(queue) or {}
        dead = arguments.get("x-dead-letter-routing-key")
        if dead and dead not in self._declared:
            if self._look(dead) is None:
                kept = {"x-queue-type": arguments["x-queue-type"], "x-max-length": DEAD_LETTERS_KEPT}
                self._channel.queue_declare(dead, durable=True, auto_delete=False, arguments=kept)
            self._declared.add(dead)
        if self._look(queue) is None:
            self._channel.queue_declare(queue, durable=True, auto_delete=False, arguments=dict(arguments) or None)
        self._declared.add(queue)

    # -- what the loop asks -------------------------------------------------------------------------

    def send(self, outgoing: Outgoing) -> None:
        """Publish all, then wait until the broker has confirmed all.

        Raises:
            NotTaken: it refused some, or did not answer in time.
            Exception: of the client library, when the connection is lost.
        """
        try:
            self._connect()
            for queue in dict.fromkeys(template.queue for template, _ in outgoing):
                self._declare(queue)
            channel = self._channel
            for template, letter in outgoing:
                body, headers, properties = template.for_kombu(letter)
                properties = {"delivery_mode": _PERSISTENT, **properties}
                priority = properties.pop("priority", None)
                message = channel.prepare_message(body, priority, "application/json", "utf-8", headers, properties)
                channel.basic_publish(message, exchange="", routing_key=template.queue, mandatory=True)
                self._sent += 1
                self._open.add(self._sent)
            self._confirmed()
        except Exception:
            self.close()
            raise

    def _confirmed(self) -> None:
        until = time.monotonic() + ANSWER_SECONDS
        while self._open:
            left = until - time.monotonic()
            if left <= 0:
                raise NotTaken(f"{len(self._open)} messages were not confirmed within {ANSWER_SECONDS:g} s")
            self._connection.drain_events(timeout=left)
        if self._refused:
            raise NotTaken(self._refused)

    def depth(self, queue: str) -> int | None:
        """Messages that wait in a queue; None when there is no such queue. Creates nothing."""
        try:
            self._connect()
            found = self._look(queue)
        except Exception:
            self.close()
            raise
        return None if found is None else int(found.message_count)

    def waiting(self, queue: str) -> frozenset[str] | None:
        """Only whether anything waits: the broker does not say what."""
        return None if self.depth(queue) else frozenset()

    def announce(self, events: list[dict[str, Any]]) -> bool:
        """Through Celery's own dispatcher, on a channel of its own. The broker does not say whether anybody listens."""
        self._connect()
        self._events = self._events or task_events(self._app, self._connection)
        send_events(self._events, events)
        return True

    def sweep(self, is_over: Callable[[str], bool]) -> int:  # noqa: ARG002  the protocol's
        """RabbitMQ gives the messages of a connection that has gone out again by itself."""
        return 0

    def describe(self) -> str:
        """Product and version of the broker, such as "RabbitMQ 3.10.8"."""
        self._connect()
        properties = self._connection.connection.server_properties
        return f"{properties.get('product', 'AMQP broker')} {properties.get('version', '')}".strip()

    def same_arguments(self, queue: str) -> bool:
        """Whether an existing queue was declared as we would declare it. Call it for queues that exist: it declares."""
        self._connect()
        arguments = self._arguments.get(queue) or {}
        try:
            self._channel.queue_declare(queue, durable=True, auto_delete=False, arguments=dict(arguments) or None)
        except PreconditionFailed:
            self._another_channel()
            return False
        return True
