"""claim, renew, handover, report: what a worker may do to the store, on every version of Redis found."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scheduler.errors import WireError
from scheduler.service.held import chain_token
from scheduler.store.attempts import BLOB_SECONDS, ENTRY_FIELDS, Attempts, Claim, Onward, Verdict
from scheduler.store.connection import connect
from scheduler.store.scripts import Script
from scheduler.wire import CHAINED, Report, new_run_id
from tests.integration.stage import dump

RUNS_OF_THEIR_OWN = False
LEASE_MS, TIMEOUT_MS = 20_000, 60_000
RUN = new_run_id(1_700_000_000_000)
HANDOVER = Script("handover")


@pytest.fixture
def attempts(redis_url_each: str) -> Attempts:
    """A worker's side of an empty store."""
    return Attempts(connect(redis_url_each))


def client(attempts: Attempts) -> Any:
    """Its connection, for looking and arranging."""
    return attempts.client


def now_ms(attempts: Attempts) -> int:
    """Redis's clock."""
    seconds, micros = client(attempts).time()
    return int(seconds * 1000 + micros // 1000)


def seed(attempts: Attempts, *ids: str, lease_ms: int = LEASE_MS, timeout_ms: int = TIMEOUT_MS) -> None:
    """Attempts that have just been sent, with a dispatch deadline a minute away, as a commit leaves them."""
    for id_ in ids:
        keys = attempts.keys.shard(int(id_.partition(".")[0]))
        client(attempts).hset(keys.attempts, id_, f"s|some-class|{lease_ms}|{timeout_ms}")
        client(attempts).zadd(keys.leases, {id_: now_ms(attempts) + 60_000})


def state(attempts: Attempts, id_: str) -> list[str]:
    """The fields of an attempt's state."""
    found = client(attempts).hget(attempts.keys.shard(int(id_.partition(".")[0])).attempts, id_)
    return [] if found is None else str(found, "utf-8").split("|")


def lease_left(attempts: Attempts, id_: str) -> float:
    """Milliseconds until the attempt counts as lost."""
    lease = client(attempts).zscore(attempts.keys.shard(int(id_.partition(".")[0])).leases, id_)
    return float(lease) - now_ms(attempts)


def expire(attempts: Attempts, id_: str) -> None:
    """Let its lease have run out."""
    keys = attempts.keys.shard(int(id_.partition(".")[0]))
    client(attempts).zadd(keys.leases, {id_: now_ms(attempts) - 1})


def attempt(node: int = 0, *, shard: int = 7, number: int = 1) -> str:
    """An attempt id."""
    return f"{shard}.{RUN}.{node}.1.{number}"


def test_a_sent_attempt_is_granted_with_lease_and_hard_end(attempts: Attempts) -> None:
    """The worker learns until when by Redis's clock, and the store who holds it since when."""
    id_ = attempt()
    seed(attempts, id_)

    claim = attempts.claim([id_], "a/1", "token1")[0]

    assert claim.verdict is Verdict.GRANTED
    assert claim.lease_end_ms - claim.now_ms == LEASE_MS
    assert claim.hard_end_ms - claim.now_ms == TIMEOUT_MS
    times = [str(claim.now_ms), str(claim.hard_end_ms)]
    assert state(attempts, id_) == ["c", "some-class", str(LEASE_MS), str(TIMEOUT_MS), *times, "token1", "a/1"]
    assert LEASE_MS - 5000 < lease_left(attempts, id_) <= LEASE_MS


def test_an_attempt_is_granted_to_one_worker_only(attempts: Attempts) -> None:
    """A second claim while the lease runs is told so and leaves Redis as it was."""
    id_ = attempt()
    seed(attempts, id_)
    attempts.claim([id_], "a", "token1")
    before = dump(attempts.client)

    assert attempts.claim([id_], "b", "token2")[0].verdict is Verdict.HELD
    assert attempts.claim([id_], "a", "token3")[0].verdict is Verdict.HELD
    assert dump(attempts.client) == before


def test_the_same_claim_again_is_granted_again(attempts: Attempts) -> None:
    """A claim whose answer was lost is repeated without harm."""
    id_ = attempt()
    seed(attempts, id_)
    attempts.claim([id_], "a", "token1")

    assert attempts.claim([id_], "a", "token1")[0].verdict is Verdict.GRANTED
    assert state(attempts, id_)[6:] == ["token1", "a"]


def test_an_attempt_begins_once(attempts: Attempts) -> None:
    """A redelivery between the end of the lease and the scheduler's word runs nothing: the next attempt will.

    Else two would work under one number, and the report of either would end it.
    """
    id_ = attempt()
    seed(attempts, id_)
    attempts.claim([id_], "a", "token1")
    expire(attempts, id_)
    before = dump(attempts.client)

    assert attempts.claim([id_], "b", "token2")[0].verdict is Verdict.HELD
    assert dump(attempts.client) == before
    assert attempts.claim([id_], "a", "token1")[0].verdict is Verdict.GRANTED


def test_an_attempt_that_ended_is_stale(attempts: Attempts) -> None:
    """What the store does not know does not run, and asking leaves nothing behind."""
    before = dump(attempts.client)

    assert attempts.claim([attempt()], "a", "token1")[0].verdict is Verdict.STALE
    assert dump(attempts.client) == before


def test_many_attempts_of_many_shards_are_answered_in_order(attempts: Attempts) -> None:
    """One call carries a list; each attempt has its own answer."""
    ids = [attempt(0, shard=1), attempt(1, shard=2), attempt(2, shard=1)]
    seed(attempts, ids[0], ids[2])

    verdicts = [it.verdict for it in attempts.claim(ids, "a", "token1")]

    assert verdicts == [Verdict.GRANTED, Verdict.STALE, Verdict.GRANTED]


def test_a_lease_never_outlives_the_hard_end(attempts: Attempts) -> None:
    """Neither by the claim nor by heartbeats, so a hung attempt ends."""
    id_ = attempt()
    seed(attempts, id_, timeout_ms=3000)

    assert attempts.claim([id_], "a", "token1")[0].lease_end_ms == int(hard_end(attempts, id_))
    assert attempts.renew([id_], "a") == {id_: True}
    assert lease_left(attempts, id_) <= 3000


def hard_end(attempts: Attempts, id_: str) -> str:
    """The hard end as it stands in the state."""
    return state(attempts, id_)[5]


def test_an_executor_that_says_it_goes_on_moves_its_end_and_never_past_its_limit(attempts: Attempts) -> None:
    """It was claimed with an end as far away as it may be silent; the lease follows."""
    id_ = attempt()
    seed(attempts, id_, timeout_ms=3_000)
    claim = attempts.claim([id_], "a", "token1")[0]
    assert attempts.beat(id_, "token1", (30_000, TIMEOUT_MS))
    assert claim.hard_end_ms + 26_000 < int(hard_end(attempts, id_)) <= now_ms(attempts) + 30_000
    assert 3_000 < lease_left(attempts, id_) <= LEASE_MS
    assert attempts.beat(id_, "token1", (30_000, 10_000))
    assert int(hard_end(attempts, id_)) == claim.now_ms + 10_000
    assert lease_left(attempts, id_) <= 10_000
    assert attempts.claim([id_], "a", "token1")[0].verdict is Verdict.GRANTED
    assert state(attempts, id_)[6:] == ["token1", "a"]


def test_an_executor_without_a_limit_only_asks(attempts: Attempts) -> None:
    """Nothing is written; an attempt that ended, was not claimed, or is another's is wanted of nobody here."""
    mine, sent, ended = attempt(0), attempt(1), attempt(2)
    seed(attempts, mine, sent)
    attempts.claim([mine], "a", "token1")
    before = dump(attempts.client)
    assert attempts.beat(mine, "token1", None)
    for id_, token in ((mine, "token2"), (sent, "token1"), (ended, "token1")):
        assert not attempts.beat(id_, token, None)
        assert not attempts.beat(id_, token, (1_000, TIMEOUT_MS))
    assert dump(attempts.client) == before
    with pytest.raises(WireError):
        attempts.beat("nonsense", "token1", None)


def test_a_heartbeat_renews_what_its_worker_holds(attempts: Attempts) -> None:
    """A full lease again; another worker's attempt and an ended one answer gone and are left alone."""
    mine, other, ended = attempt(0), attempt(1), attempt(2)
    seed(attempts, mine, other)
    attempts.claim([mine], "a", "token1")
    attempts.claim([other], "b", "token2")
    for id_ in (mine, other):
        expire(attempts, id_)

    assert attempts.renew([mine, other, ended], "a") == {mine: True, other: False, ended: False}
    assert lease_left(attempts, mine) > LEASE_MS - 5000
    assert lease_left(attempts, other) < 0
    assert state(attempts, ended) == []


def test_a_waiting_attempt_gets_a_lease_instead_of_its_dispatch_deadline(attempts: Attempts) -> None:
    """Whoever has it in memory renews it, under any name; it stays unclaimed."""
    id_ = attempt()
    seed(attempts, id_)
    assert lease_left(attempts, id_) > 50_000

    assert attempts.renew([id_], "-") == {id_: True}
    assert lease_left(attempts, id_) <= LEASE_MS
    assert state(attempts, id_)[0] == "s"


def test_a_heartbeat_brings_no_lease_back(attempts: Attempts) -> None:
    """An attempt whose lease the scheduler has taken away is not renewed into being."""
    id_ = attempt()
    seed(attempts, id_)
    attempts.claim([id_], "a", "token1")
    client(attempts).zrem(attempts.keys.shard(7).leases, id_)

    attempts.renew([id_], "a")

    assert client(attempts).zscore(attempts.keys.shard(7).leases, id_) is None
    client(attempts).hdel(attempts.keys.shard(7).attempts, id_)  # the scheduler takes both away


@pytest.mark.parametrize(("why", "kept_ms"), [("requeued", LEASE_MS), ("replaced", TIMEOUT_MS)])
def test_an_attempt_that_is_handed_over_goes_to_the_next_delivery(attempts: Attempts, why: str, kept_ms: int) -> None:
    """It is sent again, with a lease for a requeued message and the whole timeout for a replacement."""
    id_ = attempt()
    seed(attempts, id_)
    attempts.claim([id_], "a", "token1")
    keys = attempts.keys.shard(7)

    answer = HANDOVER(attempts.client, [keys.attempts, keys.leases], [id_, "token1", why])

    assert answer[0] == b"handed over"
    assert state(attempts, id_) == ["s", "some-class", str(LEASE_MS), str(TIMEOUT_MS)]
    assert kept_ms - 5000 < lease_left(attempts, id_) <= kept_ms
    assert attempts.claim([id_], "b", "token2")[0].verdict is Verdict.GRANTED


def test_only_the_holder_hands_over(attempts: Attempts) -> None:
    """A run that lost its attempt, or whose attempt ended, changes nothing."""
    id_, ended, sent = attempt(0), attempt(1), attempt(2)
    seed(attempts, id_, sent)
    attempts.claim([id_], "a", "token1")
    before = dump(attempts.client)
    keys = attempts.keys.shard(7)

    for asked, token in ((id_, "token2"), (ended, "token1"), (sent, "token1")):
        assert HANDOVER(attempts.client, [keys.attempts, keys.leases], [asked, token, "requeued"]) == [b"stale"]
    assert dump(attempts.client) == before


def test_reports_of_a_shard_travel_as_one_entry(attempts: Attempts) -> None:
    """Each report stands before its output; other shards get entries of their own."""
    first, second, other = attempt(0), attempt(1), attempt(0, shard=2)
    reports = [
        (Report(first, "succeeded", "w", 5, "inline"), b'{"a":1}'),
        (Report(second, "failed", "w", 5, error={"kind": "transient"}), None),
        (Report(other, "succeeded", "w", 5, "inline"), b"2"),
    ]
    attempts.report(reports)

    eval_ = "return redis.call('XRANGE', KEYS[1], '-', '+')"
    [(_, flat)] = client(attempts).eval(eval_, 1, attempts.keys.shard(7).inbox)
    assert flat[::2] == [b"report", b"output", b"report"]
    assert Report.from_json(flat[1]) == reports[0][0]
    assert flat[3] == b'{"a":1}'
    assert Report.from_json(flat[5]) == reports[1][0]
    assert client(attempts).xlen(attempts.keys.shard(2).inbox) == 1
    for shard in (7, 2):
        client(attempts).delete(attempts.keys.shard(shard).inbox)  # there is no scheduler to take them


def test_an_entry_of_an_inbox_holds_so_many_reports_at_most(attempts: Attempts) -> None:
    """It is taken up whole, and whoever comes after it waits. They stay in their order, and none is lost."""
    told = [Report(attempt(n), "succeeded", "w", 5) for n in range(ENTRY_FIELDS)]
    attempts.report((it, None) for it in told)
    eval_ = "return redis.call('XRANGE', KEYS[1], '-', '+')"
    inbox = attempts.keys.shard(7).inbox
    entries = [flat for _, flat in client(attempts).eval(eval_, 1, inbox)]
    assert [len(flat) for flat in entries] == [ENTRY_FIELDS, ENTRY_FIELDS]
    assert [Report.from_json(it) for flat in entries for it in flat[1::2]] == told
    client(attempts).delete(inbox)  # there is no scheduler to take them


# -- from one step of a chain to the next --------------------------------------------------------------


def proceed(
    attempts: Attempts, ended: str, begins: str, *, worker: str = "a", token: str = "t1", own: str = ""
) -> Claim:
    """Go on from an attempt that ended with the output 7 to the next step, which has half the usual time."""
    report = Report(ended, "succeeded", worker, 5, "inline")
    place = f"some-class|{LEASE_MS}|{TIMEOUT_MS // 2}"
    [claim] = attempts.proceed([Onward(report, b"7", begins, place, (token, own or token + CHAINED))], worker)
    return claim


def taken(attempts: Attempts) -> list[list[bytes]]:
    """What the inbox of shard 7 has been told. The scheduler takes it, and lets go of what has ended by it."""
    keys = attempts.keys.shard(7)
    eval_ = "return redis.call('XRANGE', KEYS[1], '-', '+')"
    found = [fields for _, fields in client(attempts).eval(eval_, 1, keys.inbox)]
    client(attempts).delete(keys.inbox)
    for fields in found:
        client(attempts).hdel(keys.attempts, ended := Report.from_json(fields[1]).id)
        client(attempts).zrem(keys.leases, ended)
    return found


def test_the_end_of_a_step_and_the_beginning_of_the_next_are_one(attempts: Attempts) -> None:
    """The report with its output is in the inbox, and the next step claimed, with lease and hard end of its own."""
    first, second = attempt(0), attempt(1)
    seed(attempts, first)
    began = attempts.claim([first], "a", "t1")[0]
    before = state(attempts, first)

    claim = proceed(attempts, first, second)

    assert claim.verdict is Verdict.GRANTED
    assert claim.lease_end_ms - claim.now_ms == LEASE_MS
    assert claim.hard_end_ms - claim.now_ms == TIMEOUT_MS // 2
    assert claim.now_ms >= began.now_ms
    times = [str(claim.now_ms), str(claim.hard_end_ms)]
    assert state(attempts, second) == ["c", "some-class", str(LEASE_MS), str(TIMEOUT_MS // 2), *times, "t1n", "a"]
    assert LEASE_MS - 5000 < lease_left(attempts, second) <= LEASE_MS
    assert [state(attempts, first)[at] for at in (0, 1, 2, 3, 4, 5, 7)] == [*before[:6], "a"]
    assert state(attempts, first)[6] not in ("t1", "t1n"), "whoever found its lease run out sees that it ended"
    report = Report(first, "succeeded", "a", 5, "inline", goes_on=second, chain="t1n")
    assert attempts.claimed([first, second]) == {
        first: (began.now_ms, "a", ""),
        second: (claim.now_ms, "a", "t1n"),
    }
    assert taken(attempts) == [[b"report", report.to_json(), b"output", b"7"]]


def test_to_go_on_again_is_granted_again_and_reports_nothing_twice(attempts: Attempts) -> None:
    """A call whose answer was lost is repeated without harm; so is one of a later step."""
    ids = [attempt(n) for n in range(3)]
    seed(attempts, ids[0])
    attempts.claim([ids[0]], "a", "t1")
    first = proceed(attempts, ids[0], ids[1])

    again = proceed(attempts, ids[0], ids[1])

    assert again.verdict is Verdict.GRANTED
    assert again.hard_end_ms == first.hard_end_ms
    assert len(taken(attempts)) == 1
    assert proceed(attempts, ids[0], ids[1]).verdict is Verdict.GRANTED, "also when the scheduler has taken the first"
    for _ in range(2):
        assert proceed(attempts, ids[1], ids[2], token="t1n", own="t1n").verdict is Verdict.GRANTED
    assert state(attempts, ids[1])[6] not in ("t1", "t1n")
    assert len(taken(attempts)) == 1


def test_how_a_step_was_begun_is_known_after_its_end_too(attempts: Attempts) -> None:
    """A scheduler that takes over finds steps whose reports nobody has read: they were begun with one, the head not."""
    ids = [attempt(n) for n in range(3)]
    seed(attempts, ids[0])
    attempts.claim([ids[0]], "a", "t1")
    assert proceed(attempts, ids[0], ids[1]).verdict is Verdict.GRANTED
    assert proceed(attempts, ids[1], ids[2], token="t1n", own="t1n").verdict is Verdict.GRANTED
    states = ["|".join(state(attempts, it)) for it in ids]

    assert [it[2] for it in attempts.claimed(ids).values()] == ["", "t1n", "t1n"]
    assert [bool(chain_token(it)) for it in states] == [False, True, True]
    taken(attempts)


def test_a_chain_goes_on_for_its_holder_only(attempts: Attempts) -> None:
    """The attempt has ended, waits to be claimed, is another's or was gone on from; the next one is on its way, or
    another has it: nothing is reported, and Redis is as it was.
    """
    ended, sent, others, mine, gone_on, busy = (attempt(n) for n in range(6))
    after, out, theirs = (attempt(n) for n in range(10, 13))
    seed(attempts, sent, others, mine, gone_on, out, theirs)
    attempts.claim([others], "b", "t2")
    attempts.claim([mine, gone_on], "a", "t1")
    attempts.claim([theirs], "b", "t2")
    assert proceed(attempts, gone_on, busy).verdict is Verdict.GRANTED
    before = dump(attempts.client)

    for report, begins in [*((it, after) for it in (ended, sent, others, gone_on)), (mine, out), (mine, theirs)]:
        assert proceed(attempts, report, begins) == Claim(Verdict.STALE), (report, begins)
    assert dump(attempts.client) == before
    assert len(taken(attempts)) == 1


def test_a_step_is_like_any_attempt_to_its_worker(attempts: Attempts) -> None:
    """Its lease is renewed up to its own hard end, it beats by its token, and the one before it is still its worker's.

    A message of the same attempt, should there ever be one, is not granted.
    """
    first, second = attempt(0), attempt(1)
    seed(attempts, first, timeout_ms=3_000)
    attempts.claim([first], "a", "t1")
    claim = proceed(attempts, first, second)
    for id_ in (first, second):
        expire(attempts, id_)

    assert attempts.renew([first, second], "a") == {first: True, second: True}
    assert attempts.renew([first, second], "b") == {first: False, second: False}
    assert lease_left(attempts, second) > LEASE_MS - 5000
    assert int(hard_end(attempts, second)) == claim.hard_end_ms
    assert attempts.beat(second, "t1n", None)
    assert not attempts.beat(second, "t1", None)
    assert not attempts.beat(first, "t1", None), "it has ended"
    assert attempts.claim([second], "b", "t3")[0].verdict is Verdict.HELD
    taken(attempts)


def test_a_step_without_an_id_of_an_attempt_never_reaches_redis(attempts: Attempts) -> None:
    """As for claims and reports."""
    before = dump(attempts.client)
    with pytest.raises(WireError):
        proceed(attempts, "nonsense", attempt(1))
    with pytest.raises(WireError):
        proceed(attempts, attempt(0), "nonsense")
    assert dump(attempts.client) == before


def test_a_blob_is_found_by_its_key_and_does_not_stay_for_ever(attempts: Attempts) -> None:
    """Unless a commit accepts it, it goes by itself."""
    key = attempts.put_blob(attempt(), b"x" * 1000)

    assert attempts.get_blob(key) == b"x" * 1000
    assert BLOB_SECONDS - 60 < client(attempts).ttl(key) <= BLOB_SECONDS
    assert attempts.get_blob(attempts.keys.shard(7).blob(attempt(9))) is None


@pytest.mark.parametrize(
    "bad", ["", "no", "7.short.1.1.1", f"7.{RUN}.1.1", f"x.{RUN}.1.1.1", f"7.{RUN}.1.1.1\n"], ids=range(6)
)
def test_what_is_no_attempt_id_never_reaches_redis(attempts: Attempts, bad: str) -> None:
    """Ids come from messages; nothing else becomes part of a key."""
    before = dump(attempts.client)
    with pytest.raises(WireError):
        attempts.claim([bad], "a", "token1")
    with pytest.raises(WireError):
        attempts.renew([bad], "a")
    with pytest.raises(WireError):
        attempts.report([(Report(bad, "succeeded"), None)])
    with pytest.raises(WireError):
        attempts.put_blob(bad, b"")
    assert dump(attempts.client) == before


def test_contracts_and_workers_are_made_known(attempts: Attempts) -> None:
    """Schedulers notice contracts by a number that grows; a worker is listed until it says goodbye."""
    attempts.publish_contracts({"a": {"v": 1, "name": "a"}})
    attempts.publish_contracts({"a": {"v": 1, "name": "a", "cost": 2}})
    attempts.publish_contracts({})
    assert json.loads(client(attempts).hget("cel:executors", "a"))["cost"] == 2
    assert client(attempts).get("cel:executors:version") == b"2"

    attempts.announce_worker("w@here", {"pid": 5, "queue_class": "some-class"})
    told = json.loads(client(attempts).hget("cel:workers", "w@here"))
    assert (told["name"], told["pid"]) == ("w@here", 5)
    assert abs(told["seen_at_ms"] - now_ms(attempts)) < 5000
    attempts.forget_worker("w@here")
    assert client(attempts).hlen("cel:workers") == 0
