"""A run followed by its log: counts, reasons, outages, and an end that a crash kept out of the log."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from scheduler import Graph
from scheduler.cli import follow, work
from scheduler.cli.follow import Failed, Followed
from scheduler.cli.run import _Patience
from scheduler.client import Event
from scheduler.core.run import Run
from scheduler.core.states import RunState
from scheduler.errors import StoreUnreachable, WaitTimeout
from scheduler.store.summaries import Summary
from scheduler.wire import RunId

ID = RunId("0" * 26)
Part = Event | Exception


class Handle:
    """What a handle would tell: parts of a log, errors of the waiting between them, and a summary at the end."""

    id = ID

    def __init__(self, *parts: Part, **progress: int) -> None:
        self.parts = list(parts)
        self.progress = progress
        self.asked: list[str | None] = []

    def events(self, after: str | None, timeout: float) -> Iterator[Event]:
        assert 0 < timeout <= 0.5
        self.asked.append(after)
        while self.parts:
            part = self.parts.pop(0)
            if isinstance(part, Exception):
                raise part
            yield part

    def summary(self) -> Summary:
        return Summary(ID, "g", RunState.FAILED, "why", 2, 1, 99, None, self.progress, {}, None, None, "")


@pytest.fixture
def followed() -> Callable[..., tuple[Followed, Handle]]:
    """Makes a run of nodes a and b, followed by such a handle."""

    def make(*parts: Part, **progress: int) -> tuple[Followed, Handle]:
        g = Graph("g")
        g.add("y", key="b", after=[g.add("x", key="a")])
        compiled = g.compile()
        run = Run.load(ID, compiled.header, compiled.pages(), created_at_ms=1)
        handle: Any = Handle(*parts, **progress)
        return Followed(run, handle), handle

    return make


def moves(*words: tuple[str | None, str]) -> list[Event]:
    """Events by node and move."""
    ids = itertools.count()
    return [Event(f"5-{next(ids)}.0", 5, node, move, 1, None, f"{move}!") for node, move in words]


def test_the_log_is_counted_by_state_and_executor(followed: Callable[..., tuple[Followed, Handle]]) -> None:
    """Attempts, failures and reasons for waiting with it; a turn after each silence; read on behind what was read."""
    early = moves(("b", "wait"), ("a", "ready"), ("a", "dispatch"), ("a", "retry"))
    late = moves(("a", "wake"), ("a", "dispatch"), ("a", "fail"), ("b", "upstream_fail"), (None, "failed"))
    it, handle = followed(*early, WaitTimeout(run=ID, seconds=1), *late, failed=1, upstream_failed=1)
    turns = it.follow()
    next(turns)
    assert (it.counts_by_word(), dict(it.waits)) == ({"pending": 1, "waiting": 1}, {"wait!": 1})
    assert (it.over, it.done, it.attempts) == (False, 0, 1)
    assert len(list(turns)) == 1
    assert handle.asked == [None, "5-3.0"]
    assert (it.state, it.reason, it.ended_at_ms, it.attempts) == (RunState.FAILED, "why", 99, 2)
    assert it.counts_by_word() == {"failed": 1, "upstream_failed": 1}
    assert {name: [at for at, number in enumerate(group) if number] for name, group in it.groups.items()} == {
        "x": [6],
        "y": [8],
    }
    assert list(it.failures) == [Failed("a", 1, "retry!"), Failed("a", 1, "fail!")]
    assert not it.waits


def test_an_outage_is_waited_for_and_told_once(
    followed: Callable[..., tuple[Followed, Handle]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long; the next outage is told again."""
    monkeypatch.setattr(follow, "_AGAIN_SECONDS", 0)
    lost = [StoreUnreachable("here", "gone") for _ in range(3)]
    it, _ = followed(*lost, WaitTimeout(run=ID, seconds=1), lost[0], failed=2)
    assert len(list(it.follow())) == 6
    assert capsys.readouterr().err.count("Redis does not answer") == 2


def test_an_end_that_is_not_in_the_log_is_found(followed: Callable[..., tuple[Followed, Handle]]) -> None:
    """The run's record counts."""
    it, _ = followed(failed=1, upstream_failed=1)
    assert [it.over for _ in it.follow()] == [True]
    assert it.done == 2


def test_who_is_there_to_work_is_not_asked_to_the_death(
    followed: Callable[..., tuple[Followed, Handle]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage that comes with the question does not end the watching."""

    def gone(*_: Any) -> list[str]:
        raise RedisConnectionError

    monkeypatch.setattr(work, "idle_classes", gone)
    it, _ = followed()
    nobody: Any = None
    patience = _Patience(nobody, nobody, None, 0.0)
    patience(it)
    patience._look_at = 0.0
    patience(it)
    assert patience._look_at > 0
