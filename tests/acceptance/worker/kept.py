"""What a worker keeps between commands to its broker: python -m tests.acceptance.worker.kept URL.

A process of its own, because the protection is laid over kombu's classes. Prints what it saw, a line each.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from celery import Celery
from kombu.asynchronous import Hub, set_event_loop
from redis import Redis

from scheduler.store.direct import Sent
from scheduler.worker import broker


def main(url: str) -> None:
    """One channel's client, before and after a fork or a reconnection; a transaction, also over a broken connection."""
    app = Celery("kept", broker=f"redis+socket://{url.removeprefix('unix://')}" if url.startswith("unix") else url)
    broker.survive(app, lambda *_: None)
    channel: Any = app.connection_for_read().default_channel
    client = channel._create_client()
    tell("one client", channel._create_client() is client)
    tell("another to block on", channel._create_client(asynchronous=True) is not client)
    redis = Redis.from_url(url)
    client.pipeline().zadd("tags", {"a": 1}).hset("messages", "a", b"raw").execute()
    tell("noted", redis.zcard("tags") == redis.hlen("messages") == 1)
    room: Any = broker
    send, asked = room.send, list[Any]()

    def breaks(*given: Any) -> Any:
        asked.append(given)
        client.connection_pool.disconnect()
        raise ConnectionError("gone")

    room.send = breaks
    client.pipeline().zrem("tags", "a").hdel("messages", "a").execute()
    tell("over a new connection", not redis.exists("tags", "messages"))
    tell("once", len(asked) == 1)
    room.send = send
    tell("others go their own way", client.pipeline().llen("tags").llen("messages").execute() == [0, 0])
    not_waited_for(client, redis)
    put_off(channel, redis)
    channel._disconnect_pools()
    tell("anew with its pool", channel._create_client() is not client)
    tell("nothing is left", redis.keys("*") == [])


def not_waited_for(client: Any, redis: Any) -> None:
    """Notes inside an event loop: told at once, settled a moment later, or before any other command."""
    loop: Any = Hub()
    set_event_loop(loop)
    sent: list[Any] = []
    room: Any = broker
    send, answers = room.send, Sent.answers

    def noting(*given: Any) -> Any:
        sent.append(send(*given))
        return sent[-1]

    read: list[Any] = []

    def reading(it: Sent, **how: Any) -> Any:
        if it in sent:
            read.append(it)
        return answers(it, **how)

    room.send = noting
    room_of_answers: Any = Sent
    room_of_answers.answers = reading

    def note() -> tuple[int, int]:
        client.pipeline().zadd("tags", {"a": 1}).execute()
        return len(sent), len(read)

    client.pipeline().zadd("tags", {"a": 1}).execute()
    tell("the next one is not waited for", note() == (2, 1))
    tell("it is before the one after it", note() == (3, 2))
    client.execute_command("PING")
    tell("and before any other command", (len(sent), len(read)) == (3, 3))
    note()
    while len(read) < 4:
        time.sleep(loop.fire_timers() or 0.001)
    tell("or a moment later", len(read) == 4)
    client.pipeline().zrem("tags", "a").execute()
    client.execute_command("PING")
    tell("all of it was done", not redis.exists("tags"))
    redis.config_set("maxmemory", 1)
    client.pipeline().zadd("tags", {"b": 2}).execute()
    tell("it is not known that it was refused", not redis.exists("tags"))
    threading.Timer(0.5, lambda: redis.config_set("maxmemory", 0)).start()
    client.execute_command("PING")
    tell("when it is, it is made up for", redis.zcard("tags") == 1)
    client.pipeline().zrem("tags", "b").execute()
    client.execute_command("PING")
    room_of_answers.answers = answers
    room.send = send
    set_event_loop(None)


def put_off(channel: Any, redis: Any) -> None:
    """What is noted of a message with attempts: nothing for a moment, and nothing at all if it is soon acknowledged."""
    loop: Any = Hub()
    set_event_loop(loop)

    def take(tag: str, **headers: Any) -> None:
        info = {"exchange": "", "routing_key": "queue"}
        properties = {"delivery_tag": tag, "delivery_info": info, "priority": 0}
        raw = {"body": "", "headers": headers, "properties": properties, "content-type": "text/plain"}
        channel.qos.append(channel.Message(raw, channel=channel), tag)

    def noted() -> list[bytes]:
        return sorted(redis.hkeys("unacked"))

    take("theirs")
    channel._create_client().execute_command("PING")
    tell("an ordinary message is noted when it is taken", noted() == [b"theirs"])
    take("short", celeriac={})
    tell("one of ours is not, and counts as held", noted() == [b"theirs"] and "short" in channel.qos._delivered)
    channel.qos.ack("short")
    time.sleep(2 * broker.SETTLED_SECONDS)  # by then it would have been
    loop.fire_timers()
    channel._create_client().execute_command("PING")
    tell("nor ever, if it is acknowledged in time", noted() == [b"theirs"])
    many = [f"long{number}" for number in range(500)]
    for tag in many:
        take(tag, celeriac={})
    loop_until(loop, lambda: len(noted()) == len(many) + 1)
    tell("it is noted a moment later, however many there are", len(noted()) == len(many) + 1)
    for tag in many:
        channel.qos.ack(tag)
    channel.qos.ack("theirs")
    channel._create_client().execute_command("PING")
    tell("and so is its end", not redis.exists("unacked", "unacked_index"))
    take("reserved", celeriac={})
    channel.qos._flush()
    channel.qos.restore_unacked()
    tell("one that goes back is there again", redis.llen("queue") == 1 and not redis.exists("unacked"))
    redis.delete("queue")
    set_event_loop(None)


def loop_until(loop: Any, holds: Any) -> None:
    """Let timers of the loop fire until something holds, for ten seconds at most."""
    end = time.monotonic() + 10
    while not holds() and time.monotonic() < end:
        time.sleep(min(loop.fire_timers() or 0.001, 0.01))


def tell(what: str, holds: bool) -> None:
    """A line for whoever started this."""
    sys.stdout.write(f"{what}: {holds}\n")


if __name__ == "__main__":
    main(sys.argv[1])
