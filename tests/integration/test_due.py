"""due: what has run out in a shard, judged by Redis's clock; and what a new owner reads first."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.store.inboxes import Inboxes
from scheduler.store.keys import Keys, ShardKeys
from tests.integration.stage import Stage, dump

RUNS_OF_THEIR_OWN = False  # attempts here belong to no run
HOUR_MS = 3_600_000


@pytest.fixture
def client(redis_url_each: str) -> Any:
    """A connection to each Redis in turn."""
    return Stage(redis_url_each).client


def seed(client: Any, **due_in_ms: int) -> tuple[ShardKeys, int]:
    """Attempts with leases, and timers (names that begin with t), due relative to Redis's time."""
    keys = Keys().shard(0)
    seconds, micros = client.time()
    now = seconds * 1000 + micros // 1000
    for name, due in due_in_ms.items():
        if name.startswith("t"):
            client.zadd(keys.timers, {name: now + due})
        else:
            client.zadd(keys.leases, {name: now + due})
            client.hset(keys.attempts, name, f"s|c|1|{due}")
    return keys, now


def test_what_has_run_out_is_told_and_stays(client: Any) -> None:
    """Leases with their attempt's state and timers that are due; the commit that acts on them removes them."""
    keys, now = seed(client, a=-5, b=HOUR_MS, t1=-5, t2=2 * HOUR_MS)
    before = dump(client)

    due = Inboxes(client).due(keys)

    assert (due.attempts, due.timers) == ({"a": "s|c|1|-5"}, ["t1"])
    assert (due.next_lease_ms, due.next_timer_ms) == (now + HOUR_MS, now + 2 * HOUR_MS)
    assert now <= due.now_ms < now + HOUR_MS
    assert dump(client) == before
    client.flushall()


def test_nothing_set_means_nothing_next(client: Any) -> None:
    """An empty shard has nothing due, ever."""
    due = Inboxes(client).due(Keys().shard(0))
    assert (due.attempts, due.timers, due.next_lease_ms, due.next_timer_ms) == ({}, [], None, None)


def test_a_lease_without_an_attempt_is_told_too(client: Any) -> None:
    """So that it can be removed; its state is empty."""
    keys = Keys().shard(0)
    client.zadd(keys.leases, {"stray": 1})
    assert Inboxes(client).due(keys).attempts == {"stray": ""}
    client.flushall()


def test_no_more_than_the_limit_is_told_oldest_first(client: Any) -> None:
    """A flood of timers comes in portions."""
    keys, _ = seed(client, **{f"t{number}": -number for number in range(1, 30)})
    assert Inboxes(client).due(keys, limit=3).timers == ["t29", "t28", "t27"]
    client.flushall()


def test_a_new_owner_reads_all_that_is_there(client: Any) -> None:
    """Attempts in flight, leases, timers, what may not have been published, live runs."""
    keys, _ = seed(client, a=1, t1=1)
    client.rpush(keys.outbox, "a b", "c")
    client.zadd(keys.live, {"r": 1})

    found = Inboxes(client).adopt(keys)

    assert (found.attempts, found.leases, found.timers) == ({"a": "s|c|1|1"}, ["a"], ["t1"])
    assert (found.outbox, found.live) == ([["a", "b"], ["c"]], ["r"])
    client.flushall()


def test_entries_are_read_in_order_with_repeated_fields(client: Any) -> None:
    """One entry may carry many reports, so a field comes as often as it was written."""
    inboxes, keys = Inboxes(client), Keys().shard(0)
    client.execute_command("XADD", keys.inbox, "*", "report", "1", "output", "x", "report", "2")
    client.execute_command("XADD", keys.inbox, "*", "cancel", "3")

    entries, now = inboxes.read({keys.inbox: b"0", Keys().shard(1).inbox: b"0"}, 1)

    [first, second] = entries.pop(keys.inbox)
    assert entries == {}
    assert list(first.records()) == [(b"report", b"1"), (b"output", b"x"), (b"report", b"2")]
    assert 0 <= now - first.at_ms < HOUR_MS
    assert inboxes.read({keys.inbox: second.id}, 1)[0] == {}
    client.flushall()


def test_what_is_due_after_a_given_instant_is_left_for_later(client: Any) -> None:
    """A turn decides as of one instant: what has run out since is named as next, however late the question comes."""
    keys, now = seed(client, a=-3_000, b=-1_000, t1=-2_000, t2=-1_999)
    due = Inboxes(client).due(keys, by_ms=now - 2_000)
    assert (due.now_ms, due.timers, list(due.attempts)) == (now - 2_000, ["t1"], ["a"])
    assert (due.next_timer_ms, due.next_lease_ms) == (now - 1_999, now - 1_000)
    client.flushall()
