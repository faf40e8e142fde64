"""How messages get to the broker. The broker is a dumb pipe: queues, nothing else.

Redis gets one LPUSH per queue and batch, with bytes made from a template; RabbitMQ gets confirmed batches
(rabbit.py). Any other broker of Celery's goes through one kombu producer. The last transport keeps messages in memory,
for tests of what is sent.
"""

from __future__ import annotations

import base64
import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from celery import Celery
from kombu.entity import Queue

from ..settings import Settings, broker_url_of, is_rabbit
from ..store.connection import connect
from ..store.direct import exchange
from ..wire import carried, first_of
from .publisher import Letter, Template, as_kombu_lays_it

Outgoing = Sequence[tuple[Template, Letter]]

_REDIS_SCHEMES = ("redis", "rediss", "redis+socket", "unix", "sentinel")
UNACKED_SECONDS = 300.0
"""What a worker has taken for less than this is its own affair, by the worker's clock."""
UNACKED_AT_ONCE = 1_000
ANSWER_SECONDS = 5.0
"""The loop stands still while it waits for the broker, and must not lose its shards over that."""
_EVENTS = "task.multi"
_EVENTS_INFO = {"exchange": "celeryev", "routing_key": _EVENTS}
_ID_ON_REDIS = re.compile(rb'"task": "(?:[^"\\]|\\.)*", "id": "([^"]+)"')


class Transport(Protocol):
    """What the loop asks of a way to the broker."""

    def send(self, outgoing: Outgoing) -> None:
        """Hand messages to the broker; raises when it may not have taken all. Sending twice is harmless."""

    def waiting(self, queue: str) -> frozenset[str] | None:
        """Ids of the attempts that wait in a queue, as far as the broker tells; None when it can't tell which.

        An empty answer means that none waits.
        """

    def depth(self, queue: str) -> int | None:
        """How many messages wait in a queue, for people; None when there is no such queue or the broker can't tell."""

    def announce(self, events: list[dict[str, Any]]) -> bool:
        """Publish Celery events (type and fields) of the group "task"; returns whether anybody heard them."""

    def sweep(self, is_over: Callable[[str], bool]) -> int:
        """Let go of messages that killed workers took and never acknowledged, as far as the broker keeps such.

        Args:
            is_over: whether nobody waits for an attempt of this id any more.

        Returns:
            How many.
        """

    def close(self) -> None:
        """Let go of connections."""


class RedisTransport:
    """Straight into kombu's lists. 4 to 15 us a message.

    Attributes:
        is_beside: the broker is the store's own Redis, so what is laid into its lists may go with a commit.
    """

    def __init__(self, settings: Settings) -> None:
        url = settings.broker_url or settings.redis_url or ""
        same = settings.redis_url or ""
        self.is_beside = url in (same, broker_url_of(same))
        self.client: Any = connect(url, timeout_seconds=ANSWER_SECONDS)
        self._announcement: dict[str, Any] | None = None
        options = settings.celery_settings().get("broker_transport_options", {})
        self._prefix = str(options.get("global_keyprefix", ""))
        self._unacked = self._prefix + str(options.get("unacked_key", "unacked"))
        self._unacked_index = self._prefix + str(options.get("unacked_index_key", "unacked_index"))

    def send(self, outgoing: Outgoing) -> None:
        """One command per queue, one round trip."""
        exchange(self.client, [("LPUSH", name, *messages) for name, messages in self.lists(outgoing).items()])

    def lists(self, outgoing: Outgoing) -> dict[str, list[bytes]]:
        """Messages as the broker's lists have them, by the name of the list."""
        found: dict[str, list[bytes]] = defaultdict(list)
        for template, letter in outgoing:
            found[self._prefix + template.queue].append(template.on_redis(letter))
        return found

    def waiting(self, queue: str) -> frozenset[str] | None:
        """Reads the whole queue: it is as short as the class's window."""
        messages: list[bytes] = self.client.lrange(self._prefix + queue, 0, -1)
        return frozenset(
            id_ for it in messages if (found := _ID_ON_REDIS.search(it)) for id_ in _ids_of(found[1].decode(), it)
        )

    def depth(self, queue: str) -> int | None:
        """A queue of Redis's that is empty is not there."""
        return int(self.client.llen(self._prefix + queue))

    def announce(self, events: list[dict[str, Any]]) -> bool:
        """One PUBLISH to the channel on which kombu has Celery's events."""
        made = self._announcement or as_kombu_lays_it(_EVENTS, {"hostname": "celeriac"}, {"delivery_mode": 1})
        self._announcement = made
        sender = {"hostname": "celeriac", "pid": os.getpid(), "clock": 0, "utcoffset": 0, "timestamp": time.time()}
        made["body"] = base64.b64encode(json.dumps([sender | event for event in events]).encode()).decode()
        made["properties"] |= {"delivery_tag": str(time.time_ns()), "delivery_info": _EVENTS_INFO}
        database = self.client.connection_pool.connection_kwargs.get("db") or 0
        return bool(self.client.publish(f"{self._prefix}/{database}.celeryev/{_EVENTS}", json.dumps(made)))

    def sweep(self, is_over: Callable[[str], bool]) -> int:
        """What a worker has taken kombu keeps until it is acknowledged, or for a day: that of a killed worker.

        What a worker took less than UNACKED_SECONDS ago is left alone. One read and, seldom, one write per 1,000
        messages that workers hold; delivery tags begin with the id of the attempt (publisher.py).
        """
        until, gone, first = time.time() - UNACKED_SECONDS, 0, 0
        while True:
            tags = self.client.zrangebyscore(self._unacked_index, 0, until, start=first, num=UNACKED_AT_ONCE)
            over = [tag for tag in tags if is_over(first_of(tag.decode("utf-8", "replace").partition("~")[0]))]
            if over:
                with self.client.pipeline(transaction=True) as pipe:
                    pipe.hdel(self._unacked, *over)
                    pipe.zrem(self._unacked_index, *over)
                    pipe.execute()
            gone, first = gone + len(over), first + len(tags) - len(over)
            if len(tags) < UNACKED_AT_ONCE:
                return gone

    def close(self) -> None:
        """Close the connection."""
        self.client.close()


def _ids_of(id_: str, message: bytes) -> list[str]:
    """The attempts of a message in Redis: the one that its id is, or those that its header lists."""
    if first_of(id_) == id_:
        return [id_]
    return carried(id_, json.loads(message)["headers"].get("celeriac"))


class KombuTransport:
    """Any broker that kombu knows. Queues are declared once, messages are persistent."""

    def __init__(self, app: Celery) -> None:
        self._connection = app.connection_for_write()
        self._app = app
        self._producer: Any = None
        self._events: Any = None
        self._declared: dict[str, Queue] = {}
        self._queues = {it.name: it for it in app.amqp.queues.values()}

    def _open(self) -> Any:
        if self._producer is None:
            self._connection.ensure_connection(max_retries=2, timeout=10)
            self._producer = self._connection.Producer(serializer="json")
        return self._producer

    def send(self, outgoing: Outgoing) -> None:
        """One publish a message, to the default exchange."""
        producer = self._open()
        try:
            for template, letter in outgoing:
                self._declare(template.queue)
                body, headers, properties = template.for_kombu(letter)
                producer.publish(
                    body,
                    exchange="",
                    routing_key=template.queue,
                    headers=headers,
                    content_type="application/json",
                    content_encoding="utf-8",
                    delivery_mode=2,
                    **properties,
                )
        except Exception:
            self.close()
            raise

    def _declare(self, name: str) -> None:
        if name not in self._declared:
            queue = self._queues[name](self._producer.channel)
            queue.declare()
            self._declared[name] = queue

    def waiting(self, queue: str) -> frozenset[str] | None:
        """Only whether anything waits: the broker does not say what."""
        return None if self.depth(queue) else frozenset()

    def depth(self, queue: str) -> int | None:
        """By a passive declaration, the queue being declared first."""
        self._open()
        self._declare(queue)
        return int(self._declared[queue].queue_declare(passive=True).message_count)

    def sweep(self, is_over: Callable[[str], bool]) -> int:  # noqa: ARG002  the protocol's
        """The broker gives such messages out again by itself."""
        return 0

    def announce(self, events: list[dict[str, Any]]) -> bool:
        """Through Celery's own dispatcher. The broker does not say whether anybody listens."""
        self._open()
        self._events = self._events or task_events(self._app, self._connection)
        send_events(self._events, events)
        return True

    def close(self) -> None:
        """Close the connection; the next send opens another."""
        self._producer = self._events = None
        self._declared.clear()
        self._connection.release()


def task_events(app: Celery, connection: Any) -> Any:
    """Celery's own dispatcher of task events, on a channel of its own; sends them in groups."""
    return app.events.Dispatcher(connection, buffer_group=frozenset({"task"}), buffer_limit=1_000_000)


def send_events(dispatcher: Any, events: list[dict[str, Any]]) -> None:
    """All of them, now."""
    for event in events:
        dispatcher.send(**event)
    dispatcher.flush()


class MemoryTransport:
    """Keeps what is sent: (queue, body, headers) of each message. For tests."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, dict[str, Any]]] = []

    def send(self, outgoing: Outgoing) -> None:
        """Remember."""
        self.sent += ((template.queue, *template.for_kombu(letter)[:2]) for template, letter in outgoing)

    def waiting(self, queue: str) -> frozenset[str] | None:
        """All that was sent."""
        found = (carried(headers["id"], headers["celeriac"]) for to, _, headers in self.sent if to == queue)
        return frozenset(id_ for ids in found for id_ in ids)

    def depth(self, queue: str) -> int | None:
        """All that was sent."""
        return sum(to == queue for to, _, _ in self.sent)

    def announce(self, events: list[dict[str, Any]]) -> bool:  # noqa: ARG002  the protocol's
        """Nobody listens."""
        return False

    def sweep(self, is_over: Callable[[str], bool]) -> int:  # noqa: ARG002  the protocol's
        """Nothing is kept."""
        return 0

    def close(self) -> None:
        """Nothing is open."""


def open_transport(settings: Settings, app: Celery) -> Transport:
    """The transport for the broker that the settings name."""
    url = settings.broker_url or settings.redis_url or ""
    if url.partition("://")[0] in _REDIS_SCHEMES:
        return RedisTransport(settings)
    if is_rabbit(url):
        from .rabbit import RabbitTransport

        return RabbitTransport(app, {it.queue: settings.queue_arguments(it) for it in settings.classes.values()})
    return KombuTransport(app)
