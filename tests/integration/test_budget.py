"""The budget of bytes for ended runs: beyond it the oldest go before their time."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.store.ended import EndedRuns
from tests.integration.archived import act, at_once_to, blocked, everything, removed
from tests.integration.echo import AtOnce, Echo, Ending
from tests.integration.stage import Stage, eventually, idle, layers

pytestmark = pytest.mark.usefixtures("quick")


def test_beyond_the_budget_the_oldest_go_before_their_time(redis_url: str, folder: Path) -> None:
    """What ended runs take stays below the budget, and what is left are the newest; also after the archive failed."""
    stage = Stage(redis_url, shards=1)
    stage.publish("echo")
    worker = Echo(stage.attempts, lambda task: Ending(value={"text": "x" * 20_000}))
    with stage.scheduler(AtOnce(worker)):
        runs = [stage.submit(layers(2)) for _ in range(10)]
        for run in runs:
            stage.ended(run)
    found = EndedRuns(stage.runs)
    weights = []
    for run in runs:
        it = found.look(run)
        assert it is not None
        weights.append(found.weigh(it))
    assert all(40_000 < weight < 80_000 for weight in weights)
    budget = sum(weights[-4:]) + 1000
    mend = blocked(folder)
    with stage.scheduler(
        AtOnce(worker), retention=at_once_to(folder, retention_seconds="never", retention_bytes=budget)
    ) as scheduler:
        eventually(lambda: scheduler.counts["archive failures"] >= 2, "failures")
        assert all(stage.runs.summaries(runs))
        mend()
        removed(stage, *runs[:6])
        later = [stage.submit(layers(2)) for _ in range(2)]
        stage.ended(*later)
        removed(stage, *runs[6:8])
    assert all(stage.runs.summaries([*runs[8:], *later]))
    assert scheduler.counts["removed"] == 8
    idle(stage)


def test_large_outputs_count_in_the_budget(redis_url: str, folder: Path) -> None:
    """A run whose outputs were put aside weighs what they weigh."""
    stage = Stage(redis_url, shards=1)
    stage.publish("echo")
    with stage.scheduler(AtOnce(Echo(stage.attempts, act))):
        run = stage.submit(everything())
        stage.ended(run)
    found = EndedRuns(stage.runs)
    it = found.look(run)
    assert it is not None
    assert found.weigh(it) > 3_000_000
