"""After each test that touches the store, one function looks at all of Redis (invariants.py)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.service import archivist, dispatch, overdue, retention
from scheduler.service.transport import MemoryTransport
from scheduler.store.connection import connect
from tests.integration.echo import AtOnce, Echo
from tests.integration.invariants import check
from tests.integration.lives import Fate, fate_of
from tests.integration.stage import Stage


@pytest.fixture(autouse=True)
def invariants(request: pytest.FixtureRequest) -> Iterator[None]:
    """Redis is as it must be when the test is over.

    A module whose tests play scheduler or worker by hand, with attempts of no run, says RUNS_OF_THEIR_OWN = False.
    """
    names = [name for name in ("redis_url", "redis_url_each") if name in request.fixturenames]
    urls = [request.getfixturevalue(name) for name in names]
    yield
    for url in urls:
        with connect(url) as client:
            check(client, runs_of_their_own=getattr(request.module, "RUNS_OF_THEIR_OWN", True))


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases are looked at more often than in production; nothing else is changed."""
    for room in (dispatch, overdue):
        monkeypatch.setattr(room, "CHECK_MS", 50)


@pytest.fixture
def stage(redis_url: str, soon: None) -> Stage:
    """An empty installation."""
    return Stage(redis_url)


@pytest.fixture
def stage_each(redis_url_each: str, soon: None) -> Stage:
    """An empty installation on each version of Redis."""
    return Stage(redis_url_each)


@pytest.fixture
def worker(stage: Stage) -> Echo:
    """A worker whose `act` a test may set; `at_once` sends to it."""
    stage.publish("echo")
    return Echo(stage.attempts)


@pytest.fixture
def at_once(worker: Echo) -> AtOnce:
    """The transport to that worker."""
    return AtOnce(worker)


@pytest.fixture
def memory(stage: Stage) -> MemoryTransport:
    """A broker that keeps what it gets; no worker."""
    stage.publish("echo")
    return MemoryTransport()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The archivist looks more often than in production; nothing else is changed."""
    monkeypatch.setattr(archivist, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(archivist, "AGAIN_SECONDS", (0.05, 0.2))
    monkeypatch.setattr(archivist, "ASIDE_SECONDS", 0.1)
    monkeypatch.setattr(retention, "WORKING_MS", 10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the archive of a test lies; nothing is there yet."""
    return tmp_path / "archive"


@pytest.fixture
def fate(monkeypatch: pytest.MonkeyPatch) -> Fate:
    """When this test's schedulers die."""
    return fate_of(monkeypatch)
