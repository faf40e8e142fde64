"""Schedulers that die between any two writes, in one process.

A death is an exception that nothing in the loop catches, so one process can try every instant: Redis sees just what a
killed process leaves. Each write of a commit is a call of its own, which is the worst case.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from redis import Redis

from scheduler.service import owned
from scheduler.service.loop import Scheduler
from scheduler.service.transport import Outgoing
from scheduler.store import commits
from scheduler.store.commits import Commit
from scheduler.store.inboxes import Entry
from scheduler.store.scripts import COMMIT, FENCE
from tests.integration.echo import AtOnce, Echo
from tests.integration.stage import Stage


class Killed(BaseException):
    """The process ends here."""


class Fate:
    """Counts the instants at which a process could die, and dies at the one that was chosen."""

    def __init__(self) -> None:
        self.passed = 0
        self.dies_at = 0

    def instant(self) -> None:
        """Between two writes."""
        self.passed += 1
        if self.passed == self.dies_at:
            raise Killed


class Mortal(AtOnce):
    """A transport whose process may die before and after it hands over each message."""

    def __init__(self, worker: Echo, fate: Fate) -> None:
        super().__init__(worker)
        self.fate = fate

    def send(self, outgoing: Outgoing) -> None:
        """One by one."""
        for it in outgoing:
            self.fate.instant()
            super().send([it])
        self.fate.instant()


class Lives(Scheduler):
    """A scheduler that ends by itself when there is nothing left to do, or when it is time to look why there is."""

    until: Callable[[], bool]

    def _read(self) -> tuple[dict[str, list[Entry]], int]:
        if self.until():
            self.stop()
        return super()._read()


def fate_of(monkeypatch: pytest.MonkeyPatch) -> Fate:
    """Death may come before every single write of a commit, and between taking a shard and fencing it."""
    it = Fate()

    def send_commits(client: Redis, batch: Sequence[Commit]) -> list[int]:
        refused = set()
        for commit in batch:
            for keys, arguments in commit.calls():
                it.instant()
                if COMMIT(client, keys, arguments) != b"committed":
                    refused.add(commit.keys.shard)
        it.instant()
        return sorted(refused)

    def fence(client: Redis, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        answers = []
        for keys, arguments in calls:
            it.instant()
            answers.append(FENCE(client, keys, arguments))
        return answers

    monkeypatch.setattr(owned, "send_commits", send_commits)
    monkeypatch.setattr(FENCE, "many", fence)
    monkeypatch.setattr(commits, "_ARGUMENTS_PER_CALL", 1)
    return it


class Life:
    """One run, and the schedulers that live and die over it."""

    def __init__(self, stage: Stage, fate: Fate, worker: Echo) -> None:
        self.stage, self.fate, self.worker = stage, fate, worker
        self.settings = stage.settings()

    def live(self, dies_at: int = 0, until: Callable[[], bool] | None = None) -> bool:
        """One scheduler's life, from the instant at which the one before is missed; True when it was not killed."""
        self.stage.owners_vanish()
        self.fate.passed, self.fate.dies_at = 0, dies_at
        scheduler = Lives(self.settings, Mortal(self.worker, self.fate))
        scheduler.until = until or self.stage.quiet
        guard = threading.Timer(15, scheduler.stop)
        guard.start()
        try:
            scheduler.run()
        except Killed:
            return False
        finally:
            guard.cancel()
        assert not scheduler.counts["crashes"], "the loop stumbled"
        return True
