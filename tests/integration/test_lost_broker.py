"""A broker that is killed: what Celery does with its connection then must not end the worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu.common import ignore_errors
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.messaging import Consumer, Producer
from kombu.transport.redis import Channel

from scheduler.embedded import EmbeddedRedis
from scheduler.worker.reconnect import guard_channels


@pytest.fixture
def guarded() -> Iterator[None]:
    """The guard is laid over kombu, and taken off again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Channel, "_connparams", Channel._connparams)
        guard_channels()
        guard_channels()
        yield


def lose(home: Path) -> Connection:
    """A connection with two channels that hold a message each, whose server was killed, as Celery gives it up."""
    server = EmbeddedRedis(home).start()
    connection = Connection(server.broker_url)
    got: list[object] = []
    for name in ("first", "second"):
        channel: Any = connection.default_channel if name == "first" else connection.channel()
        queue = Queue(name, Exchange(name), routing_key=name)
        Producer(channel).publish({}, exchange=queue.exchange, routing_key=name, declare=[queue])
        if name == "first":
            Consumer(channel, [queue], on_message=got.append).consume()
            connection.drain_events(timeout=10)
            channel._brpop_start()  # as always in a worker: it waits for the next message
        else:
            got.append(queue(channel).get())
    assert len(got) == 2
    process = server._process
    assert process is not None
    process.kill()
    process.wait()
    connection.collect()
    return connection


def test_a_connection_whose_broker_was_killed_can_be_closed(tmp_path: Path, guarded: None) -> None:
    """Closing it fails as a lost connection at most, which Celery expects; then the worker connects anew."""
    connection = lose(tmp_path)
    ignore_errors(connection, connection.close)
    assert not connection.connected


def test_kombu_alone_would_end_the_worker(tmp_path: Path) -> None:
    """Without the guard closing raises what Celery does not expect; once kombu is mended, the guard can go."""
    connection = lose(tmp_path)
    with pytest.raises(AttributeError):
        ignore_errors(connection, connection.close)
