"""Reports and claims of steps that began ahead are made in order, each once, whatever becomes of the answers."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from scheduler.store.attempts import Attempts, Claim, Onward, Verdict
from scheduler.wire import CHAINED, Report
from scheduler.worker import ahead, chain
from tests.integration.stage import Stage

RUNS_OF_THEIR_OWN = False
RUN, TOKEN, PLACE, LENGTH = "01jd0c0000000000000000000a", "5f", "standard-low|20000|60000", 6


class Losing(Attempts):
    """Loses answers: of each call for which `does` has a number, so many steps are done, and nobody hears of it."""

    does: tuple[int, ...] = ()

    def proceed(self, steps: Sequence[Onward], worker: str) -> list[Claim]:
        if not self.does:
            return super().proceed(steps, worker)
        count, *rest = self.does
        self.does = tuple(rest)
        if steps[:count]:
            super().proceed(steps[:count], worker)
        raise ConnectionError("the answer was lost")


class Begun:
    """A chain whose head has been claimed, and whose other steps have all begun ahead."""

    def __init__(self, stage: Stage) -> None:
        self.store = Losing(stage.client)
        self.keys = self.store.keys.shard(0)
        self.ids = [f"0.{RUN}.{node}.1.1" for node in range(LENGTH + 1)]
        self.installation: Any = SimpleNamespace(attempts=lambda: self.store, claim_wait_seconds=5.0)
        stage.client.hset(self.keys.attempts, self.ids[0], f"s|{PLACE}")
        assert self.store.claim(self.ids[:1], "w@here", TOKEN)[0].verdict is Verdict.GRANTED
        reports = [
            Report(id_, "succeeded", "w@here", 1, "inline", None, None, 5, "", at > 0, TOKEN + CHAINED if at else "")
            for at, id_ in enumerate(self.ids)
        ]
        self.steps = [
            chain.onward_of(report, str(at).encode(), {"id": self.ids[at + 1], "claim": PLACE}, TOKEN)
            for at, report in enumerate(reports[:-1])
        ]

    def loses(self, *does: int) -> None:
        """Of the next calls, so many steps are done, and the answers are lost."""
        self.store.does = does

    def settle(self) -> int:
        """Report and claim all of them."""
        return ahead.settle(self.installation, self.steps, "w@here")

    def ahead(self) -> tuple[ahead.Ahead, list[str], list[str]]:
        """As a bundle has it, all steps begun: with what goes its ordinary way, and what is noted as claimed."""
        queued: list[str] = []
        noted: list[str] = []
        it = ahead.Ahead(self.installation, "w@here", lambda report, _: queued.append(report.id), noted.append)
        for step in self.steps:
            it.begins(step)
        return it, queued, noted

    def told(self) -> list[tuple[str, str]]:
        """(attempt, the one that it goes on to) of each report in the inbox, in order."""
        entries = self.store.client.execute_command("XRANGE", self.keys.inbox, "-", "+")
        records = [json.loads(fields[b"report"] if isinstance(fields, dict) else fields[1]) for _, fields in entries]
        return [(it["id"], it["goes_on"]) for it in records]

    def is_kept(self, count: int) -> None:
        """The first so many are told once, in order, and the step behind them is claimed; of the others nothing is."""
        assert self.told() == list(zip(self.ids[:count], self.ids[1 : count + 1], strict=True))
        states = {id_: self.store.client.hget(self.keys.attempts, id_) for id_ in self.ids}
        holders = [state and state.decode().split("|")[6] for state in states.values()]
        first = TOKEN if not count else f"x{TOKEN}"
        own = [f"x{TOKEN}{CHAINED}"] * (count - 1) + [f"{TOKEN}{CHAINED}"] * (count > 0)
        assert holders == [first, *own, *[None] * (LENGTH - count)]


@pytest.fixture
def begun(stage: Stage) -> Begun:
    """One on an empty store."""
    return Begun(stage)


def test_all_are_kept_in_order(begun: Begun) -> None:
    """One round trip for all of them."""
    assert begun.settle() == LENGTH
    begun.is_kept(LENGTH)


@pytest.mark.parametrize("does", [(0,), (1,), (3,), (LENGTH,), (2, 0, 0), (0, 0), (3, 1), (LENGTH, 0, 1)])
def test_a_lost_answer_changes_nothing(begun: Begun, does: tuple[int, ...]) -> None:
    """None, some or all had been done, and answers to the questions about that are lost as well: each is kept once."""
    begun.loses(*does)
    assert begun.settle() == LENGTH
    begun.is_kept(LENGTH)


@pytest.mark.parametrize("does", [(), (0,), (2,)])
def test_what_somebody_else_has_ends_it(begun: Begun, does: tuple[int, ...]) -> None:
    """A step that is out already came another way: those before it are kept, it stays, and nothing follows."""
    sent = begun.ids[3]
    begun.store.client.hset(begun.keys.attempts, sent, "s|standard-low|20000|60000")
    begun.loses(*does)
    assert begun.settle() == 2
    assert begun.store.client.hget(begun.keys.attempts, sent) == b"s|standard-low|20000|60000"
    begun.store.client.hdel(begun.keys.attempts, sent)
    begun.is_kept(2)


def test_what_is_not_wanted_any_more_keeps_nothing(begun: Begun) -> None:
    """The head was ended by somebody else: none is told, none is claimed."""
    begun.store.client.hdel(begun.keys.attempts, begun.ids[0])
    begun.store.client.delete(begun.keys.leases)
    assert begun.settle() == 0
    assert begun.told() == []
    assert begun.store.client.hlen(begun.keys.attempts) == 0


@pytest.mark.parametrize("done", [0, 2, LENGTH])
def test_the_ticker_does_not_wait_for_redis(begun: Begun, monkeypatch: pytest.MonkeyPatch, done: int) -> None:
    """Whose answer it loses, it leaves to the next who may wait; that one finds out, and each is kept once."""
    monkeypatch.setattr(ahead, "AHEAD_SECONDS", 3600.0)
    it, queued, noted = begun.ahead()
    monkeypatch.setattr(ahead, "AHEAD_SECONDS", 0.0)
    begun.loses(done)
    it.tick(time.monotonic())
    assert begun.store.does == ()
    it.tick(time.monotonic())
    assert (queued, noted, it.is_over) == ([], [], False)
    it.settle()
    assert (queued, noted, it.is_over, it.void) == ([], begun.ids[-1:], False, set())
    begun.is_kept(LENGTH)


def test_who_gets_no_answer_tells_everything_again(begun: Begun) -> None:
    """The outage lasts: all of it goes its ordinary way, the chain ends, and nothing is void, for it may be wanted."""
    begun.installation.claim_wait_seconds = 0.0
    begun.loses(1, 0, 0, 0, 0, 0, 0)
    it, queued, _ = begun.ahead()
    it.settle()
    assert queued == begun.ids[:-1]
    assert it.is_over
    assert not it.void
    begun.is_kept(1)


def test_what_is_void_is_not_told(begun: Begun) -> None:
    """The report before the refused step goes its ordinary way; that step and those behind it are void."""
    begun.store.client.hset(begun.keys.attempts, begun.ids[3], "s|standard-low|20000|60000")
    it, queued, noted = begun.ahead()
    it.settle()
    assert (queued, noted) == ([begun.ids[2]], [begun.ids[2]])
    assert it.is_over
    assert it.void == set(begun.ids[3:])
    begun.store.client.hdel(begun.keys.attempts, begun.ids[3])
    begun.is_kept(2)
