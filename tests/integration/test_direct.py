"""Commands past redis-py's layers, on real servers: one connection serves many, and none serves two at a time."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError, ResponseError

from scheduler.embedded import EmbeddedRedis
from scheduler.store import direct
from scheduler.store.connection import connect
from scheduler.store.direct import exchange
from tests.integration.stage import eventually


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    """A client of an empty store."""
    with connect(redis_url) as found:
        yield found
        found.flushall()


def test_answers_come_as_redis_gives_them(client: Any) -> None:
    """Bytes, numbers, lists, nothing; and an error among them, or raised when all are read."""
    commands = [("SET", "a", "1"), ("INCR", "a"), ("GET", "b"), ("HSET", "h", "x", "ü"), ("HGETALL", "h")]
    assert exchange(client, commands) == [b"OK", 2, None, 1, [b"x", "ü".encode()]]
    wrong = [("GET", "h"), ("GET", "a")]
    answers = exchange(client, wrong, raising=False)
    assert isinstance(answers[0], ResponseError)
    assert answers[1] == b"2"
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        exchange(client, wrong)
    assert exchange(client, [("GET", "a")]) == [b"2"], "an answer was left for the next command"


def test_one_connection_is_looked_at_once_in_a_while(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes soon after uses it as it is; later the pool looks at it again."""
    looked: list[Any] = []
    plain = client.connection_pool.get_connection

    def get_connection() -> Any:
        looked.append(plain())
        return looked[-1]

    monkeypatch.setattr(client.connection_pool, "get_connection", get_connection)
    monkeypatch.setattr(direct, "LOOKED_AT_SECONDS", 1_000.0)
    for _ in range(20):
        exchange(client, [("PING",)])
    assert len(looked) == 1
    direct._kept.clear()
    monkeypatch.setattr(direct, "LOOKED_AT_SECONDS", 0.0)
    for _ in range(3):
        exchange(client, [("PING",)])
    assert len(looked) == 4


def test_threads_share_no_connection(client: Any) -> None:
    """Each gets its own answers, however they meet; and no more connections are made than are in use at a time."""
    together = threading.Barrier(8)

    def work(number: int) -> list[list[Any]]:
        together.wait(30)
        return [exchange(client, [("ECHO", f"{number}-{at}"), ("CLIENT", "ID")]) for at in range(200)]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(8)))
    said = [[answers[0] for answers in one] for one in found]
    assert said == [[f"{number}-{at}".encode() for at in range(200)] for number in range(8)]
    assert len({answers[1] for one in found for answers in one}) <= 8


def test_a_forked_process_leaves_its_parent_s_connections_alone(client: Any) -> None:
    """It makes its own, and the parent goes on with what it had."""
    exchange(client, [("SET", "who", "parent")])
    mine = exchange(client, [("CLIENT", "ID")])
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, repr(exchange(client, [("CLIENT", "ID"), ("GET", "who")])).encode())
            gc.collect()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    told = os.read(reading, 1000).decode()
    os.close(reading)
    os.close(writing)
    assert "parent" in told
    assert f"[{mine[0]}," not in told
    assert exchange(client, [("CLIENT", "ID")]) == mine


def test_a_server_that_was_away_between_two_commands_is_not_missed(tmp_path: Path) -> None:
    """That it has closed the connection is seen before anything is sent; while it is away commands fail."""
    with EmbeddedRedis(tmp_path) as server, connect(server.url) as client:
        exchange(client, [("SET", "a", "1")])
        server.stop()
        with pytest.raises((RedisError, OSError)):
            exchange(client, [("GET", "a")])
        server.start()
        assert exchange(client, [("GET", "a")]) == [b"1"]
        server.stop()
        server.start()
        assert exchange(client, [("GET", "a")]) == [b"1"]


def test_a_closed_client_holds_nothing_open(redis_url: str) -> None:
    """What was kept for the next command is closed with it; used again it connects again."""
    with connect(redis_url) as admin:

        def is_open(number: int) -> bool:
            return str(number) in {str(it["id"]) for it in admin.client_list()}

        client = connect(redis_url)
        [mine] = exchange(client, [("CLIENT", "ID")])
        assert is_open(mine)
        client.close()
        eventually(lambda: not is_open(mine), "it is closed")
        [other] = exchange(client, [("CLIENT", "ID")])
        assert other != mine
        client.close()
