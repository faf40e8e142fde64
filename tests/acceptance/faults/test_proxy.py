"""The proxy does to a connection what its verbs say, on a real Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from scheduler.embedded import EmbeddedRedis
from tests.acceptance.faults.proxy import TO_CLIENT, TO_SERVER, Proxy

SILENCE_SECONDS = 0.5
"""How long a test listens to a connection on which nothing may come."""
INCREMENT = "return redis.call('INCR', KEYS[1])"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """One Redis for all tests here."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def direct(server: EmbeddedRedis) -> Iterator[Redis]:
    """A connection that no fault reaches, to an empty database."""
    with Redis.from_url(server.url) as client:
        client.flushall()
        yield client


@pytest.fixture
def proxy(server: EmbeddedRedis) -> Iterator[Proxy]:
    """A proxy in front of it."""
    with Proxy(0, server.url.removeprefix("unix://").partition("?")[0]) as proxy:
        yield proxy


def client_of(proxy: Proxy, timeout_seconds: float = 20.0) -> Redis:
    """A client that repeats nothing, on one connection at a time."""
    once = Retry(NoBackoff(), 0)
    return Redis(port=proxy.url_port, socket_timeout=timeout_seconds, retry=once, single_connection_client=True)


def silent(client: Redis, *command: str) -> None:
    """No answer comes for as long as the client listens."""
    with pytest.raises(RedisTimeoutError):
        client.execute_command(*command)


def test_it_forwards_whole_messages_of_any_size(proxy: Proxy, direct: Redis) -> None:
    """What is written is what arrives, both ways, from many connections at one time."""
    big = bytes(range(256)) * 40_000

    def once(name: str) -> object:
        with client_of(proxy) as client:
            client.set(name, big)
            return client.get(name)

    with ThreadPoolExecutor(4) as pool:
        assert all(got == big for got in pool.map(once, "abcd"))
    assert direct.get("a") == big
    assert proxy.counts["accepted"] == 4


def test_it_reaches_a_server_by_host_and_port(server: EmbeddedRedis, proxy: Proxy) -> None:
    """A proxy of a proxy: the other form of an address."""
    with Proxy(0, f"127.0.0.1:{proxy.url_port}") as outer, client_of(outer) as client:
        assert client.ping()


def test_a_server_that_is_not_there_is_a_reset(tmp_path: Path) -> None:
    """As the server's own host would answer."""
    with Proxy(0, tmp_path / "nobody.sock") as proxy:
        with pytest.raises(RedisConnectionError, match="reset"):
            client_of(proxy).ping()
        assert proxy.counts["unreachable"] == 1


def test_cut_resets_what_is_open_and_takes_new_connections(proxy: Proxy) -> None:
    """Idle and blocked connections alike."""
    with client_of(proxy) as idle, client_of(proxy) as blocked, ThreadPoolExecutor(1) as pool:
        idle.ping()
        waiting = pool.submit(blocked.blpop, ["nothing"], 20)
        eventually(lambda: len(proxy.now.links) == 2 and bool(idle.info("clients")["blocked_clients"]))
        proxy.cut()
        with pytest.raises(RedisConnectionError):
            waiting.result(10)
        with pytest.raises(RedisConnectionError):
            idle.ping()
        assert idle.ping()


def test_down_refuses_and_up_takes_the_same_port_again(proxy: Proxy) -> None:
    """Refused as by a host on which nothing listens, not accepted and closed."""
    with client_of(proxy) as client:
        client.ping()
        proxy.down()
        for _ in range(2):
            with pytest.raises(RedisConnectionError):
                client.ping()
        with pytest.raises(RedisConnectionError, match=r"[Rr]efused"):
            client.ping()
        proxy.up()
        assert client.ping()


def test_freeze_holds_everything_and_thaw_loses_nothing(proxy: Proxy, direct: Redis) -> None:
    """The command arrives after the thaw, and so does its answer; a new connection waits just so."""
    with client_of(proxy) as old, client_of(proxy) as new, ThreadPoolExecutor(2) as pool:
        old.ping()
        proxy.freeze()
        answers = [pool.submit(client.incr, "n") for client in (old, new)]
        time.sleep(SILENCE_SECONDS)  # nothing may come of it
        assert direct.get("n") is None
        proxy.thaw()
        assert {answer.result(10) for answer in answers} == {1, 2}


def test_freeze_holds_one_direction(proxy: Proxy, direct: Redis) -> None:
    """The command is done; only its answer waits."""
    with client_of(proxy) as client, ThreadPoolExecutor(1) as pool:
        client.ping()
        proxy.freeze(TO_CLIENT)
        answer = pool.submit(client.incr, "n")
        eventually(lambda: direct.get("n") == b"1")
        assert not answer.done()
        proxy.thaw()
        assert answer.result(10) == 1


@pytest.mark.parametrize(("direction", "done"), [(TO_SERVER, None), (TO_CLIENT, b"1"), ("both", None)])
def test_drop_throws_away_one_direction_or_both(
    proxy: Proxy, direct: Redis, direction: str, done: bytes | None
) -> None:
    """Nobody is told; after the thaw what lost bytes is reset, and new connections work."""
    with client_of(proxy, SILENCE_SECONDS) as client:
        client.ping()
        proxy.drop(direction)
        silent(client, "INCR", "n")
        assert direct.get("n") == done
        proxy.thaw()
        assert client.ping()
        assert direct.get("n") == done


def test_what_lost_bytes_does_not_go_on(proxy: Proxy) -> None:
    """Else the answer to the next command would be taken for the lost one's."""
    with client_of(proxy) as client:
        client.ping()
        connection = client.connection
        assert connection is not None
        proxy.drop()
        connection.send_command("INCR", "n")
        eventually(lambda: proxy.counts["bytes_dropped"] > 0)
        proxy.thaw()
        with pytest.raises(RedisConnectionError):
            connection.read_response()


def test_an_end_is_not_seen_through_a_dropping_network(proxy: Proxy, direct: Redis) -> None:
    """The server keeps a connection whose client has gone: that is what half-open means."""
    with client_of(proxy) as client:
        client.ping()
        before = len(direct.client_list())
        proxy.drop()
    time.sleep(SILENCE_SECONDS)  # the server may not notice
    assert len(direct.client_list()) == before
    proxy.thaw()
    eventually(lambda: len(direct.client_list()) < before)


def test_deaf_silences_what_is_open_for_good(proxy: Proxy, direct: Redis) -> None:
    """No reset, ever, not even after clear(); a connection made later works."""
    with client_of(proxy, SILENCE_SECONDS) as old:
        old.ping()
        proxy.deaf()
        with client_of(proxy) as new:
            assert new.incr("n") == 1
        connection = old.connection
        assert connection is not None
        connection.send_command("INCR", "n")
        proxy.clear()
        with pytest.raises(RedisTimeoutError):
            connection.read_response(disconnect_on_error=False)
        assert direct.get("n") == b"1"


def test_a_reply_is_lost_on_a_connection_that_goes_silent(proxy: Proxy, direct: Redis) -> None:
    """What was popped is gone, nobody is told, nothing comes any more; an empty answer passes, and does not count."""
    loss = proxy.deafreply(1, b"LPOP")
    with client_of(proxy, SILENCE_SECONDS) as client:
        assert client.lpop("queue") is None
        assert not loss.cut
        direct.rpush("queue", "message", "another")
        silent(client, "LPOP", "queue")
        eventually(lambda: loss.cut == 1)
        assert direct.lrange("queue", 0, -1) == [b"another"]
        with client_of(proxy) as new:
            assert new.lpop("queue") == b"another"


def test_delay_comes_each_way_and_keeps_the_order(proxy: Proxy) -> None:
    """A round trip costs two delays; commands sent at once arrive as they were sent."""
    with client_of(proxy) as client:
        client.ping()
        proxy.delay(50, 20)
        began = time.monotonic()
        assert client.ping()
        assert time.monotonic() - began >= 0.06
        connection = client.connection
        assert connection is not None
        for word in "abcdef":
            connection.send_command("ECHO", word)
        assert b"".join(connection.read_response() for _ in "abcdef") == b"abcdef"
        proxy.clear()


def test_rate_bounds_each_direction(proxy: Proxy) -> None:
    """40 kB at 200 kB/s take 0.2 s."""
    with client_of(proxy) as client:
        client.ping()
        proxy.rate(200_000)
        began = time.monotonic()
        client.set("a", b"x" * 40_000)
        assert time.monotonic() - began >= 0.2
        proxy.clear()


def test_cutreply_lets_the_command_through_and_loses_its_answer(proxy: Proxy, direct: Redis) -> None:
    """As often as asked, and only for the commands that match."""
    with client_of(proxy) as client:
        loss = proxy.cutreply(2, b"INCR")
        for n in (1, 2):
            assert client.ping()
            with pytest.raises(RedisConnectionError):
                client.incr("n")
            assert direct.get("n") == b"%d" % n
        assert client.incr("n") == 3
        assert (loss.cut, proxy.counts["replies_cut"]) == (2, 2)


def test_cutreply_waits_for_a_command_that_has_been_done(proxy: Proxy, direct: Redis) -> None:
    """A script that Redis does not know is told so; the reply to the next call is the one that is lost."""
    with client_of(proxy) as client:
        proxy.cutreply(1, b"EVALSHA")
        sha = str(direct.script_load(INCREMENT))
        direct.script_flush()
        with pytest.raises(NoScriptError):
            client.evalsha(sha, 1, "n")
        direct.script_load(INCREMENT)
        with pytest.raises(RedisConnectionError):
            client.evalsha(sha, 1, "n")
        assert direct.get("n") == b"1"
        assert client.evalsha(sha, 1, "n") == 2


def test_cutreply_finds_a_match_that_comes_in_pieces(proxy: Proxy, direct: Redis) -> None:
    """The network may cut a command anywhere."""
    with client_of(proxy) as client:
        client.ping()
        proxy.cutreply(1, b"NEEDLE")
        connection = client.connection
        assert connection is not None
        for piece in (b"*2\r\n$4\r\nINCR\r\n$6\r\nNEE", b"DLE\r\n"):
            connection.send_packed_command([piece])
            time.sleep(0.02)  # so that they are two pieces
        with pytest.raises(RedisConnectionError):
            connection.read_response()
        assert direct.get("NEEDLE") == b"1"


def test_stop_ends_the_thread_and_frees_the_port(server: EmbeddedRedis) -> None:
    """Nothing of it stays in a test process that runs many."""
    before = threading.active_count()
    with Proxy(0, server.url.removeprefix("unix://").partition("?")[0]) as proxy:
        port = proxy.url_port
        assert client_of(proxy).ping()
    assert threading.active_count() == before
    with Proxy(port, ("127.0.0.1", 1)) as again:
        assert again.url_port == port


def eventually(true: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.005)
