"""The commit script and what stands around it: whole or not at all, in an order in which a crash does no harm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import RedisError, ResponseError

from scheduler.store import commits
from scheduler.store.commits import NODES_PER_CALL, Commit, Overtaken, send_commits
from scheduler.store.keys import Keys, ShardKeys
from scheduler.store.scripts import COMMIT, FENCE
from scheduler.wire import RunId
from tests.integration.stage import Stage, dump

RUNS_OF_THEIR_OWN = False  # what is written here belongs to no run
RUN = RunId("0" * 26)


@pytest.fixture
def client(redis_url_each: str) -> Any:
    """A connection to each Redis in turn."""
    return Stage(redis_url_each).client


def shard(client: Any, number: int = 0, epoch: int = 3) -> ShardKeys:
    """A shard that obeys an epoch, and whose owner the table names."""
    keys = Keys().shard(number)
    client.hset(Keys().owners, number, f"{epoch}|0|")
    assert FENCE(client, [keys.epoch], [epoch]) == b"fenced"
    return keys


def test_a_commit_by_the_owner_is_applied_whole(client: Any) -> None:
    """Every kind of write arrives, and the consumed entry is gone with it."""
    keys = shard(client)
    entry = client.xadd(keys.inbox, {"submit": RUN})
    client.zadd(keys.timers, {f"{RUN} old": 1})
    client.hset(keys.attempts, "over", "s|c|1|1")
    client.zadd(keys.leases, {"over": 1})
    client.rpush(keys.outbox, "published", "unpublished")
    client.set(keys.blob("b"), "x", ex=100)
    commit = Commit(keys, 3)
    commit.records(RUN, {0: "zero", 100: "hundred"})
    commit.values(RUN, {1: b'"one"'})
    commit.out({"out": "s|c|1|1"}, {"out": 77})
    commit.over(["over"])
    commit.timers({f"{RUN} new": 5}, [f"{RUN} old"])
    commit.log(RUN, b"[]", 1)
    commit.keep_blob("b")
    commit.outbox(["out"], 1)
    commit.consumed([entry])

    assert send_commits(client, [commit]) == []

    assert client.hgetall(keys.nodes(RUN, 0)) == {b"0": b"zero"}
    assert client.hgetall(keys.nodes(RUN, 1)) == {b"100": b"hundred"}
    assert client.hgetall(keys.values(RUN, 0)) == {b"1": b'"one"'}
    assert client.hgetall(keys.attempts) == {b"out": b"s|c|1|1"}
    assert client.zrange(keys.leases, 0, -1, withscores=True) == [(b"out", 77)]
    assert client.zrange(keys.timers, 0, -1, withscores=True) == [(f"{RUN} new".encode(), 5)]
    assert [fields for _, fields in client.xrange(keys.log(RUN))] == [{b"moves": b"[]"}]
    assert client.ttl(keys.blob("b")) == -1
    assert client.lrange(keys.outbox, 0, -1) == [b"unpublished", b"out"]
    assert client.xlen(keys.inbox) == 0
    client.flushall()


@pytest.mark.parametrize("epoch", [2, 4])
def test_a_commit_under_another_epoch_changes_nothing(client: Any, epoch: int) -> None:
    """A former owner is refused, and so is one that the shard has never obeyed."""
    keys = shard(client, epoch=3)
    before = dump(client)
    commit = Commit(keys, epoch)
    commit.timers({f"{RUN} x": 5}, [])

    assert send_commits(client, [commit]) == [0]
    assert dump(client) == before


def test_a_commit_for_a_shard_that_nobody_took_is_refused(client: Any) -> None:
    """Without an epoch there is no owner."""
    commit = Commit(Keys().shard(1), 1)
    commit.timers({f"{RUN} x": 5}, [])
    before = dump(client)
    assert send_commits(client, [commit]) == [1]
    assert dump(client) == before


def wrong_type(client: Any, keys: ShardKeys) -> Commit:
    """The second write meets a key of another type."""
    client.set(keys.inbox, "no stream")
    commit = Commit(keys, 3)
    commit.timers({f"{RUN} x": 5}, [])
    commit.consumed([b"1-1"])
    return commit


def unknown_write(client: Any, keys: ShardKeys) -> Commit:
    """The second write is none that a commit may do."""
    commit = Commit(keys, 3)
    commit.timers({f"{RUN} x": 5}, [])
    commit._last.append(("FLUSHALL", keys.timers, ()))
    return commit


@pytest.mark.parametrize(
    ("make", "says"), [(wrong_type, "is a string, expected a stream"), (unknown_write, "FLUSHALL")]
)
def test_a_commit_is_checked_before_its_first_write(
    client: Any, make: Callable[[Any, ShardKeys], Commit], says: str
) -> None:
    """What cannot be applied whole changes nothing, and the error says what was found where."""
    commit = make(client, shard(client))
    before = dump(client)

    with pytest.raises(ResponseError, match=says):
        send_commits(client, [commit])
    assert dump(client) == before
    client.flushall()


@pytest.mark.parametrize("found", ["c|c|1|1|0|0|token|w", None])
def test_a_commit_about_a_lost_attempt_is_overtaken_by_its_claim(client: Any, found: str | None) -> None:
    """What a decision rested on is compared first; when it is no longer so, nothing is written."""
    keys = shard(client)
    client.hset(keys.attempts, mapping={"lost": "s|c|1|1", "other": "s|c|1|1"})
    commit = Commit(keys, 3)
    commit.timers({f"{RUN} x": 5}, [])
    commit.over(["lost"])
    commit.still({"other": "s|c|1|1", "lost": "s|c|1|1"})
    if found is None:
        client.hdel(keys.attempts, "lost")
    else:
        client.hset(keys.attempts, "lost", found)
    before = dump(client)

    with pytest.raises(Overtaken):
        send_commits(client, [commit])
    assert dump(client) == before

    client.hset(keys.attempts, "lost", "s|c|1|1")
    assert send_commits(client, [commit]) == []
    assert client.hkeys(keys.attempts) == [b"other"]
    client.flushall()


def test_one_shard_s_refusal_leaves_the_others_commit(client: Any) -> None:
    """Commits of several shards travel together and are judged apart."""
    mine, lost = shard(client, 0, epoch=3), shard(client, 1, epoch=9)
    both = []
    for keys in (mine, lost):
        commit = Commit(keys, 3)
        commit.timers({f"{RUN} x": 5}, [])
        both.append(commit)

    assert send_commits(client, both) == [1]
    assert client.exists(mine.timers, lost.timers) == 1
    client.flushall()


@pytest.mark.parametrize("shards", [1, 3])
def test_a_redis_that_has_forgotten_the_script_is_told_it_again(client: Any, shards: int) -> None:
    """After a restart or a failover nothing is lost, nor done twice."""
    every = [shard(client, number) for number in range(shards)]
    client.script_flush()
    made = []
    for keys in every:
        commit = Commit(keys, 3)
        commit.log(RUN, b"[]", 1)
        made.append(commit)

    assert send_commits(client, made) == []
    assert [client.xlen(keys.log(RUN)) for keys in every] == [1] * shards
    client.flushall()


def test_a_wide_commit_is_cut_into_bounded_calls(client: Any) -> None:
    """No call carries more than some thousand arguments, and together they say everything once."""
    keys = shard(client)
    n = 5 * NODES_PER_CALL
    commit = Commit(keys, 3)
    commit.records(RUN, {node: f"r{node}" for node in range(n)})
    commit.values(RUN, dict.fromkeys(range(n), b"1"))
    commit.out({f"a{node}": "s|c|1|1" for node in range(n)}, {f"a{node}": 7 for node in range(n)})
    commit.outbox([f"a{node}" for node in range(n)], 0)
    sizes = [len(arguments) for _, arguments in commit.calls()]
    assert len(sizes) > 5
    assert max(sizes) <= 6 * NODES_PER_CALL + 10

    assert send_commits(client, [commit]) == []
    assert sum(client.hlen(keys.nodes(RUN, bucket)) for bucket in range(n // 100)) == n
    assert sum(client.hlen(keys.values(RUN, bucket)) for bucket in range(n // 100)) == n
    assert client.hlen(keys.attempts) == client.zcard(keys.leases) == n
    assert [len(batch.split()) for batch in client.lrange(keys.outbox, 0, -1)] == [NODES_PER_CALL] * 5
    client.flushall()


def test_what_makes_a_record_true_is_written_before_it_and_what_it_ends_after(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off anywhere, a commit leaves nothing promised and missing: the order of its writes is the reason."""
    monkeypatch.setattr(commits, "_ARGUMENTS_PER_CALL", 1)
    keys = shard(client)
    commit = Commit(keys, 3)
    commit.ended(RUN, 9)
    commit.over(["b"])
    commit.log(RUN, b"[]", 1)
    commit.run(RUN, {"state": "x"})
    commit.records(RUN, {0: "r"})
    commit.outbox(["a"], 1)
    commit.out({"a": "s|c|1|1"}, {"a": 7})
    commit.values(RUN, {0: b"1"})
    commit.timers({"t": 1}, ["u"])
    commit.consumed([b"1-1"])

    order = {(arguments[2], sent[2]): at for at, (sent, arguments) in enumerate(commit.calls())}
    record = order["HSET", keys.nodes(RUN, 0)]
    before = [
        ("HSET", keys.values(RUN, 0)),
        ("HSET", keys.attempts),
        ("ZADD", keys.leases),
        ("RPUSH", keys.outbox),
        ("ZADD", keys.timers),
    ]
    after = [
        ("XADD", keys.log(RUN)),
        ("HDEL", keys.attempts),
        ("ZREM", keys.leases),
        ("ZREM", keys.timers),
        ("LTRIM", keys.outbox),
        ("XDEL", keys.inbox),
    ]
    assert all(order[write] < record for write in before)
    assert all(order[write] > record for write in after)
    assert order["ZADD", keys.ended] < order["ZREM", keys.live] < order["XDEL", keys.inbox]
    assert len(order) == len(list(commit.calls()))


def test_a_redis_without_memory_takes_nothing_of_a_commit(client: Any) -> None:
    """Out of memory, a commit is refused before its first write, and goes through once there is room."""
    keys = shard(client)
    client.set("celeriac.ballast", b"x" * 2_000_000)
    commit = Commit(keys, 3)
    commit.timers({f"{RUN} x": 5}, [])
    before = dump(client)
    client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(RedisError):
            send_commits(client, [commit])
    finally:
        client.config_set("maxmemory", "0")
    assert dump(client) == before
    assert send_commits(client, [commit]) == []
    assert COMMIT.sha
    client.flushall()
