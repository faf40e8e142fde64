"""A claim that is asked for before its attempt's tracer begins: granted once, to that attempt, or asked again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from scheduler.store.attempts import Attempts, Verdict
from scheduler.worker import early
from scheduler.worker.installation import Installation, claimant

RUNS_OF_THEIR_OWN = False
RUN = "01jd0c0000000000000000000a"
ONE, OTHER = f"0.{RUN}.1.1.1", f"0.{RUN}.2.1.1"


@pytest.fixture
def attempts(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Attempts]:
    """The store of a worker that runs in this process, with two attempts that were sent."""
    installation = Installation(Celery("early", set_as_current=False), redis_url=redis_url)
    monkeypatch.setattr(early, "_worker", None)
    early.serves(installation, "here")
    found = installation.attempts()
    found.claim([f"0.{RUN}.9.1.1"], claimant("here"), "abc")  # so that Redis knows the script
    keys = found.keys.shard(0)
    for id_ in (ONE, OTHER):
        found.client.hset(keys.attempts, id_, "s|some-class|20000|60000")
        found.client.zadd(keys.leases, {id_: (time.time() + 60) * 1000})
    yield found
    found.client.flushall()


def token(attempts: Attempts, id_: str) -> str:
    """With which an attempt is claimed; "" while nobody has claimed it."""
    state = attempts.client.hget(attempts.keys.shard(0).attempts, id_).decode().split("|")
    return state[6] if state[0] == "c" else ""


def run(id_: str, *, script: Any) -> list[Any]:
    """What `script` finds out in the place of Celery's tracer."""
    found: list[Any] = []
    target, args = early.asking(lambda _name, mine, *_: found.append(script(mine)), ("task", id_, {}))
    target(*args)
    return found


def test_the_answer_is_that_of_the_attempt_itself(attempts: Attempts) -> None:
    """It is granted with the token that the store then has; another attempt, one inside it say, gets none of it."""

    def script(id_: str) -> Any:
        stranger = early.answered(OTHER)
        mine = early.answered(id_)
        return stranger[1], mine, early.answered(id_)[1]

    [(stranger, (mine, claim), again)] = run(ONE, script=script)
    assert (stranger, again) == (None, None)
    assert claim.verdict is Verdict.GRANTED
    assert token(attempts, ONE) == mine
    assert token(attempts, OTHER) == ""
    assert early.answered(ONE)[1] is None, "it outlived its attempt"


def test_an_answer_that_nobody_wanted_is_nobody_elses(attempts: Attempts) -> None:
    """A tracer that never comes to its task leaves no answer behind for the next command."""
    assert run(ONE, script=lambda _: None) == [None]
    [(_, claim)] = run(ONE, script=early.answered)
    assert claim is not None
    assert claim.verdict is Verdict.HELD, "somebody has claimed it before: whoever ran it first"
    assert attempts.claim([OTHER], claimant("here"), "abc")[0].verdict is Verdict.GRANTED


@pytest.mark.parametrize("how", ["forgotten", "gone", "away"])
def test_without_an_answer_the_same_token_asks_again(
    attempts: Attempts, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis has forgotten the script, or the connection is gone before or after the question: one claim is made."""
    if how == "forgotten":
        attempts.client.script_flush()
    if how == "gone":
        monkeypatch.setattr(type(attempts), "send_claim", _raises)

    def script(id_: str) -> tuple[str, Any]:
        if how == "away":
            attempts.client.client_kill_filter(_type="normal", skipme=True)
        return early.answered(id_)

    [(mine, claim)] = run(ONE, script=script)
    again = claim or attempts.claim([ONE], claimant("here"), mine)[0]
    assert again.verdict is Verdict.GRANTED
    assert token(attempts, ONE) == mine


def _raises(*_: Any) -> Any:
    raise ConnectionError("gone")


def test_what_is_no_attempt_goes_its_own_way(attempts: Attempts) -> None:
    """Users' tasks, and bundles, which claim for themselves, are called as Celery calls them."""
    for id_ in ("8b0b3a4e-37d5-4c1e-9d5e-3b6d6f1f0c55", f"{ONE}x2", None):
        assert early.asking(print, ("task", id_)) == (print, ("task", id_))
    assert early.asking(print, None) == (print, None)
