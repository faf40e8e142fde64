"""One kombu channel as a worker has it, beside a Redis whose disk fails: python -m tests.acceptance.worker.pinged URL.

A process of its own, because the protection is laid over kombu's classes. Reads a line before each of its two parts.
"""

from __future__ import annotations

import sys

from celery import Celery

from scheduler.worker.broker import survive


def tell(what: object) -> None:
    """A line for whoever started this."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def main(url: str) -> None:
    """Subscribe; then, with a failing disk, pings: of the subscription, of a connection, and right after connecting."""
    app = Celery("pinged", broker=f"redis+socket://{url.removeprefix('unix://')}" if url.startswith("unix") else url)
    survive(app, lambda *_: None)
    channel = app.connection_for_read().default_channel
    subscriber = channel.subclient
    subscriber.subscribe("/0.pinged")
    channel._receive_one(subscriber)
    tell("subscribed")
    sys.stdin.readline()
    connection = subscriber.connection
    subscriber.check_health()
    connection.send_command("PING", check_health=False)
    tell(channel._receive_one(subscriber))
    other = channel.pool.get_connection()
    other.next_health_check = 1e-9
    other.check_health()
    other.disconnect()
    other.connect()
    other.check_health()
    tell("lived")


if __name__ == "__main__":
    main(sys.argv[1])
