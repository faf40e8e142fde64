"""What doctor asks Redis, on real servers of both versions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from scheduler.store.connection import connect
from scheduler.store.health import Health, connection_problem, live_schedulers, look
from scheduler.store.keys import Keys
from scheduler.store.owners import Owners

GOOD = Health("7.0.15", "master", True, "everysec", True, "noeviction", 10, 0, 0, 0.1)


@pytest.fixture
def client(redis_url_each: str) -> Iterator[Redis]:
    """A connection to each server in turn."""
    with connect(redis_url_each) as client:
        yield client


def test_the_shipped_configuration_is_healthy(client: Redis) -> None:
    """The embedded server keeps every write and evicts nothing; its clock is ours."""
    found = look(client, fsync=True)
    assert found.problems() == []
    assert (found.append_only, found.fsync, found.eviction, found.role) == (True, "everysec", "noeviction", "master")
    assert abs(found.clock_ms) < 1_000


def test_a_server_that_may_lose_data_is_found_out(client: Redis) -> None:
    """Eviction, fsync and the append-only file, each named with its remedy."""
    before = {name: client.config_get(name) for name in ("maxmemory-policy", "appendfsync", "appendonly")}
    try:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendfsync", "no")
        client.config_set("appendonly", "no")
        told = " ".join(problem for problem, _ in look(client, fsync=True).problems())
    finally:
        for settings in before.values():
            for name, value in settings.items():
                client.config_set(str(name), str(value))
    for word in ("allkeys-lru", "appendfsync", "appendonly"):
        assert word in told


def test_a_server_that_hides_its_configuration_is_described_as_far_as_it_goes(client: Redis) -> None:
    """Hosted servers forbid CONFIG; INFO tells the rest, and who needs no more asks for no more."""
    client.execute_command("ACL", "SETUSER", "doctor", "on", "nopass", "~*", "+@all", "-config")
    try:
        client.execute_command("AUTH", "doctor", "any")
        client.execute_command("ACL", "LOG", "RESET")
        for fsync in (False, True):
            found = look(client, fsync=fsync)
            assert (found.append_only, found.fsync, found.eviction) == (True, None, "noeviction")
            assert found.problems() == []
            assert len(client.acl_log()) == fsync
    finally:
        client.execute_command("AUTH", "default", "")
        client.execute_command("ACL", "DELUSER", "doctor")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"version": "6.0.9"}, "older than 6.2"),
        ({"role": "slave"}, "takes no writes"),
        ({"append_only": False}, "appendonly is off"),
        ({"last_write_ok": False}, "last write"),
        ({"eviction": "volatile-ttl"}, "volatile-ttl"),
        ({"memory_bytes": 95, "memory_limit_bytes": 100}, "nine tenths"),
    ],
)
def test_each_problem_has_its_words(changed: dict[str, object], told: str) -> None:
    """One thing wrong gives one problem."""
    [(problem, remedy)] = replace(GOOD, **changed).problems()  # type: ignore[arg-type]
    assert told in problem
    assert remedy.endswith(".")


def test_live_schedulers_are_those_whose_membership_runs(client: Redis) -> None:
    """One that has stopped renewing is not listed."""
    Owners(client, "cel", "here", 60_000).keep({})
    client.zadd(Keys("cel").schedulers, {"gone": 1})
    assert set(live_schedulers(client, Keys("cel"))) == {"here"}


def test_only_lost_connections_count_as_no_answer() -> None:
    """A refused password is one; a wrong command is a fault of ours."""
    assert connection_problem(RedisConnectionError("a\nb")) == "a b"
    assert connection_problem(ResponseError("WRONGPASS no"))
    assert connection_problem(ResponseError("ERR wrong number of arguments")) == ""
    assert connection_problem(ValueError("x")) == ""
