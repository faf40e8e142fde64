"""Guards laid over Celery's pool; malformed messages and killed brokers are tested on real workers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from celery.concurrency.asynpool import AsynPool
from kombu.asynchronous import Hub

from scheduler.worker.reconnect import guard_pool


@pytest.fixture
def hub() -> Iterator[Hub]:
    """An event loop as a worker has it."""
    it = Hub()
    yield it
    it.close()


def test_the_pool_looks_again_for_a_process_that_has_just_died(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    """Its pipe is closed before it can be collected, so the first look may be too early; Celery's next is 5 s off."""
    monkeypatch.setattr(AsynPool, "_event_process_exit", AsynPool._event_process_exit)
    guard_pool()
    guard_pool()
    looks: list[float] = []
    pool = SimpleNamespace(_untrack_child_process=lambda *_: None, maintain_pool=lambda: looks.append(time.monotonic()))
    AsynPool._event_process_exit(pool, hub, None)
    assert len(looks) == 1
    until = time.monotonic() + 4  # less than Celery's own five seconds
    while len(looks) < 3 and time.monotonic() < until:
        hub.run_once()
        time.sleep(0.01)  # between two turns of the loop
    assert len(looks) == 3
