"""The way of a chain through the store: as any two steps would take it, on a connection that is nobody else's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import RedisError

from scheduler.errors import WireError
from scheduler.store.attempts import Attempts, Onward, Verdict
from scheduler.store.connection import connect
from scheduler.store.direct import exchange
from scheduler.store.passage import FEWEST_ASLEEP, Passage
from scheduler.store.scripts import PROCEED
from scheduler.wire import CHAINED, Report
from tests.integration.test_attempts import attempt, seed, state

RUNS_OF_THEIR_OWN = False
PLACE = "some-class|20000|60000"


@pytest.fixture
def attempts(redis_url: str) -> Iterator[Attempts]:
    """A worker's side of an empty store; there is no scheduler to take what it reports."""
    with connect(redis_url) as client:
        client.script_load(PROCEED.text)
        yield Attempts(client)
        client.flushall()


@pytest.fixture
def passage(attempts: Attempts) -> Iterator[Passage]:
    """What a worker holds while a bundle runs."""
    found = Passage(attempts, "me")
    yield found
    found.close()


def onward(ended: str, begins: str, *, own: str = "t1") -> Onward:
    """From one step to the next; `own` is the token of the first's claim."""
    return Onward(Report(ended, "succeeded", "me", 5, "inline"), b"7", begins, PLACE, (own, f"t1{CHAINED}"))


def begun(attempts: Attempts, *ids: str) -> None:
    """Attempts that were sent and that this worker has claimed."""
    seed(attempts, *ids)
    attempts.claim(ids, "me", "t1")


def told(attempts: Attempts, shard: int = 7) -> list[list[bytes]]:
    """What an inbox holds."""
    client: Any = attempts.client
    found = client.eval("return redis.call('XRANGE', KEYS[1], '-', '+')", 1, attempts.keys.shard(shard).inbox)
    return [fields for _, fields in found]


def test_steps_pass_as_they_would_by_any_call(attempts: Attempts, passage: Passage) -> None:
    """Chains of two shards in turn: each step is granted, each report is where its run's scheduler looks, and the store
    is as `Attempts.proceed` leaves it.
    """
    heads = [attempt(0), attempt(0, shard=3), attempt(10)]
    begun(attempts, *heads)
    for head, shard in ((heads[0], 7), (heads[1], 3)):
        for at in range(2):
            before = head if at == 0 else attempt(at, shard=shard)
            passage.send(onward(before, attempt(at + 1, shard=shard), own="t1" if at == 0 else f"t1{CHAINED}"))
            claim = passage.answer()
            assert claim.verdict is Verdict.GRANTED
            assert (claim.lease_end_ms - claim.now_ms, claim.hard_end_ms - claim.now_ms) == (20_000, 60_000)
    [other] = attempts.proceed([onward(heads[2], attempt(11))], "me")
    assert other.verdict is Verdict.GRANTED
    mine, theirs = state(attempts, attempt(1, shard=3)), state(attempts, attempt(11))
    mine[6] = mine[6].removeprefix("x")  # it has gone on from there
    assert [mine[at] for at in (0, 1, 2, 3, 6, 7)] == [theirs[at] for at in (0, 1, 2, 3, 6, 7)]
    [*_, last] = told(attempts)
    assert [len(told(attempts, shard)) for shard in (7, 3)] == [3, 2]
    assert last[2:] == [b"output", b"7"]
    passage.send(onward(heads[2], attempt(11)))
    assert passage.answer().verdict is Verdict.GRANTED, "the same again does no harm"
    passage.send(onward(attempt(20), attempt(21)))
    assert passage.answer().verdict is Verdict.STALE


def test_an_answer_that_nobody_has_read_is_nobody_elses(attempts: Attempts, passage: Passage) -> None:
    """A time limit may strike between question and answer: the next step never gets the answer of the one before."""
    begun(attempts, attempt(0))
    passage.send(onward(attempt(0), attempt(1)))
    passage.send(onward(attempt(20), attempt(21)))
    assert passage.answer().verdict is Verdict.STALE
    passage.send(onward(attempt(0), attempt(1)))
    passage.close()
    assert exchange(attempts.client, [("PING",)]) == [b"PONG"], "nor does any other command"


@pytest.mark.parametrize("how", ["forgotten", "away before", "away between"])
def test_without_an_answer_the_same_may_be_asked_again(attempts: Attempts, passage: Passage, how: str) -> None:
    """Redis has forgotten the script, or the connection is gone: it is an error, and all goes on afterwards."""
    client: Any = attempts.client
    begun(attempts, attempt(0))
    passage.send(onward(attempt(0), attempt(1)))
    assert passage.answer().verdict is Verdict.GRANTED
    step = onward(attempt(1), attempt(2), own=f"t1{CHAINED}")
    if how == "forgotten":
        client.script_flush()
    if how == "away before":
        client.client_kill_filter(_type="normal", skipme=True)

    def asks() -> None:
        passage.send(step)
        if how == "away between":
            client.client_kill_filter(_type="normal", skipme=True)
            passage._line.connection._parser._reader = None  # type: ignore[union-attr]  # what had come is lost too
        passage.answer()

    with pytest.raises((RedisError, OSError)):
        asks()
    [again] = attempts.proceed([step], "me")
    assert again.verdict is Verdict.GRANTED
    passage.send(onward(attempt(2), attempt(3), own=f"t1{CHAINED}"))
    assert passage.answer().verdict is Verdict.GRANTED
    assert len(told(attempts)) == 3


def test_an_answer_that_takes_its_time_is_waited_for(attempts: Attempts, passage: Passage) -> None:
    """Looked for in vain first, then asleep, and looked for again: each is that of its step."""
    client: Any = attempts.client
    begun(attempts, attempt(0))
    for at in range(3 * FEWEST_ASLEEP):
        if at % 6 == 0:
            client.client_pause(5 if at else 300)
        passage.send(onward(attempt(at), attempt(at + 1), own="t1" if at == 0 else f"t1{CHAINED}"))
        assert passage.answer().verdict is Verdict.GRANTED
        assert at or passage._asleep == FEWEST_ASLEEP, "it was not looked for"
    assert len(told(attempts)) == 3 * FEWEST_ASLEEP


def test_steps_of_different_runs_are_refused(attempts: Attempts, passage: Passage) -> None:
    """Before anything is sent."""
    begun(attempts, attempt(0))
    for stranger in (attempt(1, shard=3), attempt(1).replace("0", "1", 1), "nonsense"):
        with pytest.raises(WireError):
            passage.send(onward(attempt(0), stranger))
    passage.send(onward(attempt(0), attempt(1)))
    assert passage.answer().verdict is Verdict.GRANTED


def test_its_connection_is_its_own_until_it_is_closed(attempts: Attempts, passage: Passage) -> None:
    """Other commands of the process take another; afterwards it serves them."""
    begun(attempts, attempt(0))
    passage.send(onward(attempt(0), attempt(1)))
    assert exchange(attempts.client, [("PING",)]) == [b"PONG"], "not the answer to another's question"
    assert passage.answer().verdict is Verdict.GRANTED
    line: Any = passage._line
    mine = line.connection
    passage.close()
    mine.send_command("CLIENT", "ID")
    number = mine.read_response()
    assert exchange(attempts.client, [("CLIENT", "ID")]) == [number]
