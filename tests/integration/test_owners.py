"""take, keep, release, fence: at any instant at most one scheduler's commits are obeyed by a shard."""

from __future__ import annotations

import time
from collections import Counter
from itertools import chain
from typing import Any

import pytest

from scheduler.service.shards import Shards
from scheduler.service.transport import MemoryTransport
from scheduler.store.commits import Commit, send_commits
from scheduler.store.inboxes import Inboxes, Shard
from scheduler.store.keys import Keys, ShardKeys
from scheduler.store.owners import Owner, Owners
from scheduler.store.scripts import FENCE, TAKE
from tests.integration.echo import AtOnce, Echo
from tests.integration.stage import Stage, diamond, dump, eventually, owned

LEASE_MS = 60_000


@pytest.fixture
def stage(redis_url_each: str) -> Stage:
    """An installation on each Redis in turn."""
    return Stage(redis_url_each)


def owners(stage: Stage, name: str) -> Owners:
    """A scheduler's view of the table."""
    return Owners(stage.client, stage.namespace, name, LEASE_MS)


def numbers(taken: dict[int, str]) -> dict[int, int]:
    """Shard -> number of its token."""
    return {shard: int(token.partition(".")[0]) for shard, token in taken.items()}


def commit(stage: Stage, shard: int, epoch: str | int) -> bool:
    """Whether the shard obeys a commit under an epoch."""
    made = Commit(stage.keys.shard(shard), epoch)
    made.over(["nothing"])
    return send_commits(stage.client, [made]) == []


def test_a_free_shard_goes_to_whoever_asks_first(stage: Stage) -> None:
    """The second is told no, and the shard obeys the first alone."""
    a, b = owners(stage, "a"), owners(stage, "b")

    taken = a.take([0, 1])
    assert numbers(taken) == {0: 1, 1: 1}
    before = dump(stage.client)
    assert b.take([0, 1]) == {}
    assert dump(stage.client) == before
    assert a.table()[0] == Owner(0, 1, a.table()[0].lease_end_ms, "a")
    assert commit(stage, 0, taken[0])
    assert not commit(stage, 0, 1), "the number alone is not the token"


def test_a_shard_whose_lease_ran_out_is_taken_under_a_higher_epoch(stage: Stage) -> None:
    """From then on commits of the former owner are refused whole, although nobody told it."""
    a, b = owners(stage, "a"), owners(stage, "b")
    old = a.take([0])
    stage.owners_vanish()

    new = b.take([0])
    assert numbers(new) == {0: 2}
    assert not commit(stage, 0, old[0])
    assert commit(stage, 0, new[0])
    assert a.keep(old).lost == {0}


def test_a_renewal_keeps_shards_and_counts_schedulers(stage: Stage) -> None:
    """A scheduler that keeps renewing is there, and so are its shards; one that does not is not counted."""
    a, b = owners(stage, "a"), owners(stage, "b")
    epochs = a.take([0, 1])
    b.keep({})

    kept = a.keep(epochs)

    assert (kept.lost, kept.schedulers) == (frozenset(), 2)
    assert {shard: it.scheduler for shard, it in kept.owners.items()} == {0: "a", 1: "a"}
    assert all(it.lease_end_ms > kept.now_ms + LEASE_MS / 2 for it in kept.owners.values())
    stage.client.zadd(stage.keys.schedulers, {"b": 1})
    assert a.keep(epochs).schedulers == 1


def test_a_renewal_under_an_old_epoch_is_a_loss(stage: Stage) -> None:
    """A scheduler that lost a shard and does not know it renews nothing of its new owner's."""
    a, b = owners(stage, "a"), owners(stage, "b")
    old = a.take([0])
    a.release(old, leaving=False)
    assert numbers(b.take([0])) == {0: 2}
    line = stage.client.hget(stage.keys.owners, 0)

    assert a.keep(old).lost == {0}
    assert stage.client.hget(stage.keys.owners, 0) == line


def test_a_shard_given_back_is_free_at_once(stage: Stage) -> None:
    """A clean exit leaves no lease to wait for, and no membership."""
    a, b = owners(stage, "a"), owners(stage, "b")
    epochs = a.take([0, 1])
    a.keep(epochs)

    a.release(epochs, leaving=True)

    assert stage.client.zrange(stage.keys.schedulers, 0, -1) == []
    assert numbers(b.take([0, 1])) == {0: 2, 1: 2}


def test_giving_back_what_another_owns_by_now_changes_nothing(stage: Stage) -> None:
    """A late release does not free another's shard."""
    a, b = owners(stage, "a"), owners(stage, "b")
    old = a.take([0])
    stage.owners_vanish()
    b.take([0])
    before = dump(stage.client)

    a.release(old, leaving=False)
    assert dump(stage.client) == before


def test_a_scheduler_that_stood_still_while_taking_does_not_own(stage: Stage) -> None:
    """Between its two steps another took the shard: the higher number stands."""
    a, b = owners(stage, "a"), owners(stage, "b")
    keys: Keys = stage.keys
    assert TAKE(stage.client, [keys.owners], ["a", LEASE_MS, 0]) == [1]  # and there it stood still
    stage.owners_vanish()
    taken = b.take([0])
    assert numbers(taken) == {0: 2}

    assert FENCE(stage.client, [keys.shard(0).epoch], ["1.777"]) == b"newer"
    assert commit(stage, 0, taken[0])
    assert not commit(stage, 0, "1.777")
    assert a.keep({0: "1.777"}).lost == {0}


def test_a_redis_that_lost_a_take_gives_its_number_out_again_and_never_its_token(stage: Stage) -> None:
    """Two that hold the same number of a shard: the one whose token stands commits, the other is refused whole."""
    a, b = owners(stage, "a"), owners(stage, "b")
    earlier = {key: stage.client.dump(key) for key in stage.client.scan_iter()}
    lost = a.take([0])
    stage.client.flushall()  # a failover to a replica that never heard of it
    for key, value in earlier.items():
        stage.client.restore(key, 0, value)
    taken = b.take([0])

    assert numbers(lost) == numbers(taken) == {0: 1}
    assert lost != taken
    assert commit(stage, 0, taken[0])
    assert not commit(stage, 0, lost[0])
    assert FENCE(stage.client, [stage.keys.shard(0).epoch], list(lost.values())) == b"newer"
    assert commit(stage, 0, taken[0])


def test_a_table_of_owners_that_is_lost_alone_gets_its_numbers_from_the_tokens(stage: Stage) -> None:
    """The shards' own tokens are ahead of it then: the next take but one gets the shard, under a higher number."""
    a, b = owners(stage, "a"), owners(stage, "b")
    for _ in range(3):
        old = a.take([0, 1])
        a.release(old, leaving=False)
    old = a.take([0, 1])
    stage.client.delete(stage.keys.owners)

    assert b.take([0, 1]) == {}
    assert b.raised == [0, 1]
    assert a.keep(old).lost == {0, 1}
    new = b.take([0, 1])
    assert b.raised == []
    assert numbers(new) == {0: 5, 1: 5}
    assert not commit(stage, 0, old[0])
    assert commit(stage, 0, new[0])


def test_schedulers_work_on_after_the_table_of_owners_was_lost_alone(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody restarts anything; it is said once."""
    stage.publish("echo")
    with stage.scheduler(AtOnce(Echo(stage.attempts))):
        assert stage.ended(stage.submit(diamond())) == ["succeeded"]
        stage.client.delete(stage.keys.owners)
        eventually(lambda: len(owned(stage.client)) == stage.shards)
        assert stage.ended(stage.submit(diamond())) == ["succeeded"]
    assert caplog.text.count("lacked the numbers of 4 shards") == 1


def test_a_number_is_raised_by_nobody_who_is_only_late(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two steps of a take another took the shard: the row of the table is that one's, and stays."""
    a, b = owners(stage, "a"), owners(stage, "b")
    taken: dict[int, str] = {}

    def late(*call: Any) -> Any:
        monkeypatch.undo()
        stage.owners_vanish()
        taken.update(b.take([0]))
        return FENCE.many(*call)

    monkeypatch.setattr(FENCE, "many", late)
    assert a.take([0]) == {}
    assert a.raised == []
    assert b.keep(taken).lost == frozenset()
    assert commit(stage, 0, taken[0])


OLD_FENCE = """
local found = tonumber(redis.call("GET", KEYS[1]) or "0")
if found > tonumber(ARGV[1]) then return "newer" end
redis.call("SET", KEYS[1], ARGV[1])
return "fenced"
"""
"""fence.lua of 0.1, whose tokens were numbers alone."""


def test_schedulers_of_the_version_before_take_turns_with_new_ones(stage: Stage) -> None:
    """For the time of a deploy: each takes over from the other, and the one before is refused."""
    new = owners(stage, "new")
    key = stage.keys.shard(0).epoch

    def old_takes() -> int:
        stage.owners_vanish()
        [number] = TAKE(stage.client, [stage.keys.owners], ["old", LEASE_MS, 0])
        assert stage.client.eval(OLD_FENCE, 1, key, number) == b"fenced"
        assert stage.client.get(key) == str(number).encode()  # what its commits compare
        return int(number)

    first = new.take([0])
    number = old_takes()
    assert not commit(stage, 0, first[0])
    assert stage.client.eval(OLD_FENCE, 1, key, 1) == b"newer"
    stage.owners_vanish()
    second = new.take([0])
    assert numbers(second) == {0: number + 1}
    assert commit(stage, 0, second[0])
    assert not commit(stage, 0, number)
    assert stage.client.eval(OLD_FENCE, 1, key, number) == b"newer"
    assert old_takes() == number + 2
    assert not commit(stage, 0, second[0])


def shares(stage: Stage, *names: str) -> list[Shards]:
    """Schedulers that share the stage's shards."""
    return [Shards(owners(stage, name), stage.shards) for name in names]


def settle(schedulers: list[Shards]) -> list[list[int]]:
    """Let each look a few times; returns who has what."""
    for _ in range(4):
        for it in schedulers:
            it.look()
    return [sorted(it.owned) for it in schedulers]


def test_shards_are_shared_out_evenly_and_nothing_is_owned_twice(stage: Stage) -> None:
    """One has all, two have half each, three have a share each; all shards are always owned."""
    a, b, c = shares(stage, "a", "b", "c")
    assert settle([a]) == [[0, 1, 2, 3]]
    halves = settle([a, b])
    assert sorted(map(len, halves)) == [2, 2]
    thirds = settle([a, b, c])
    assert sorted(chain(*thirds)) == [0, 1, 2, 3]
    assert max(map(len, thirds)) == 2


def test_more_schedulers_than_shards_leave_some_waiting(stage: Stage) -> None:
    """Who has nothing stands by, and takes over when another leaves."""
    every = shares(stage, *"abcdef")
    found = settle(every)
    assert sorted(chain(*found)) == [0, 1, 2, 3]
    first = next(it for it in every if it.owned)
    first.leave()
    rest = [it for it in every if it is not first]
    assert sorted(chain(*settle(rest))) == [0, 1, 2, 3]


def test_a_look_comes_when_the_first_foreign_lease_may_end(stage: Stage) -> None:
    """A dead scheduler's shards are missed at the instant their lease ends, not a renewal later."""
    [a] = shares(stage, "a")
    settle([a])
    [b] = shares(stage, "b")
    b.look()
    assert b.next_look_ms == LEASE_MS // 3
    now = stage.runs.now_ms()
    stage.client.hset(stage.keys.owners, 2, f"1|{now + 5_000}|a")
    b.look()
    assert 4_000 < b.next_look_ms < 5_500


def test_whoever_leaves_wakes_every_other_owner_once(stage: Stage) -> None:
    """One entry in one inbox of each, for that is what they block on; who owned nothing has nothing to tell."""
    a, b, c = shares(stage, "a", "b", "c")
    settle([a, b])
    inboxes = [stage.keys.shard(shard).inbox for shard in range(4)]

    c.leave()
    assert not stage.client.exists(*inboxes)
    a.leave()
    entries = [(shard, fields) for shard in range(4) for _, fields in stage.client.xrange(inboxes[shard])]
    [(shard, fields)] = entries
    assert shard in b.owned
    assert fields == {b"look": b"a"}


def test_schedulers_that_load_slowly_keep_what_they_have(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading its share takes longer than a lease, as it does over a slow network; it is renewed meanwhile."""
    adopt = Inboxes.adopt

    def slowly(self: Inboxes, keys: ShardKeys) -> Shard:
        time.sleep(0.4)  # ten round trips of 40 ms
        return adopt(self, keys)

    monkeypatch.setattr(Inboxes, "adopt", slowly)
    stage = Stage(redis_url, shards=8)

    def even() -> bool:
        return sorted(Counter(owned(stage.client).values()).values()) == [4, 4]

    with stage.scheduler(MemoryTransport()), stage.scheduler(MemoryTransport()):
        eventually(even, "even shares")
        before = {shard: owner.epoch for shard, owner in owners(stage, "x").table().items()}
        until = time.monotonic() + 3
        eventually(lambda: not even() or time.monotonic() > until, "three leases")
        assert {shard: owner.epoch for shard, owner in owners(stage, "x").table().items()} == before
