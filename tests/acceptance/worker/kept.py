"""What a worker keeps between commands to its broker: python -m tests.acceptance.worker.kept URL.

A process of its own, because the protection is laid over kombu's classes. Prints what it saw, a line each.
"""

from __future__ import annotations

import sys
from typing import Any

from celery import Celery
from redis import Redis

from scheduler.worker import broker


def main(url: str) -> None:
    """One channel's client, before and after a fork or a reconnection; a transaction, also over a broken connection."""
    app = Celery("kept", broker=f"redis+socket://{url.removeprefix('unix://')}" if url.startswith("unix") else url)
    broker.survive(app, lambda *_: None)
    channel: Any = app.connection_for_read().default_channel
    client = channel._create_client()
    tell("one client", channel._create_client() is client)
    tell("another to block on", channel._create_client(asynchronous=True) is not client)
    tell("noted", client.pipeline().zadd("tags", {"a": 1}).hset("messages", "a", b"raw").execute() == [1, 1])
    room: Any = broker
    exchange, asked = room.exchange, list[Any]()

    def breaks(*given: Any) -> Any:
        asked.append(given)
        client.connection_pool.disconnect()
        raise ConnectionError("gone")

    room.exchange = breaks
    tell("over a new connection", client.pipeline().zrem("tags", "a").hdel("messages", "a").execute() == [1, 1])
    tell("once", len(asked) == 1)
    room.exchange = exchange
    tell("others go their own way", client.pipeline().llen("tags").llen("messages").execute() == [0, 0])
    channel._disconnect_pools()
    tell("anew with its pool", channel._create_client() is not client)
    tell("nothing is left", Redis.from_url(url).keys("*") == [])


def tell(what: str, holds: bool) -> None:
    """A line for whoever started this."""
    sys.stdout.write(f"{what}: {holds}\n")


if __name__ == "__main__":
    main(sys.argv[1])
