"""A scheduler that dies between any two steps of a removal loses nothing, and a thousand runs leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from scheduler.wire import RunId
from tests.integration.archived import act, archive_of, at_once_to, everything, removed, states
from tests.integration.echo import AtOnce, Echo
from tests.integration.invariants import check
from tests.integration.stage import Stage, eventually, idle, layers

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("quick")


DEATHS = [
    "reading",
    "before renaming",
    "archived",
    "before removal",
    "after removal",
    "within sweep",
    "before the last",
]


class Fallen(NamedTuple):
    """An installation whose scheduler has killed itself, and its two runs."""

    dies: str
    stage: Stage
    runs: list[RunId]


@pytest.fixture
def fallen(redis_url: str, folder: Path) -> Iterator[list[Fallen]]:
    """One installation for each death, all in one Redis, each with a small run of all kinds and one of 1,100 nodes."""
    found, processes = [], []
    for number, dies in enumerate(DEATHS):
        stage = Stage(redis_url, f"n{number}", shards=1)
        stage.publish("echo")
        with stage.scheduler(AtOnce(Echo(stage.attempts, act)), standard_low={"window": 2_000}):
            runs = [stage.submit(everything()), stage.submit(layers(1_100))]
            stage.ended(*runs)
        given = {
            "url": stage.url,
            "namespace": stage.namespace,
            "shards": 1,
            "lease": 1.0,
            "dies": dies,
            "nth": {"reading": 10, "within sweep": 2}.get(dies, 1),
            "counts": os.devnull,
            "retention": at_once_to(folder),
        }
        command = [sys.executable, "-m", "tests.integration.dying", json.dumps(given)]
        processes.append(subprocess.Popen(command, cwd=ROOT))
        found.append(Fallen(dies, stage, runs))
    try:
        assert [process.wait(60) for process in processes] == [-signal.SIGKILL] * len(DEATHS)
        yield found
    finally:
        for process in processes:
            process.kill()
            process.wait(20)


def test_a_death_between_any_two_steps_loses_nothing(fallen: list[Fallen], folder: Path) -> None:
    """Killed while reading, before and after the file is there, before and after the removal, within a sweep: at each
    instant a run is whole in Redis or whole in the archive, and the next scheduler ends what was begun.
    """
    ends = [{"failed"}, {"succeeded"}]
    for dies, stage, runs in fallen:
        check(stage.client, stage.namespace)
        there = [it is not None for it in stage.runs.summaries(runs)]
        assert all(there) == (dies in DEATHS[:4]), dies
        for run, still_there in zip(runs, there, strict=True):
            assert still_there or archive_of(folder).find(run), dies
    for dies, stage, runs in fallen:
        stage.owners_vanish()
        with stage.scheduler(AtOnce(Echo(stage.attempts)), retention=at_once_to(folder)):
            removed(stage, *runs)
        check(stage.client, stage.namespace, idle=True)
        for run, wanted in zip(runs, ends, strict=True):
            shelf = archive_of(folder).find(run)
            assert shelf is not None, dies
            assert {shelf.summary(run).state.value} == wanted, dies
        assert len(states(folder, runs[1])) == 1_100
    assert list((folder / ".parts").iterdir()) == []


def test_the_memory_of_redis_is_as_before_after_hundreds_of_runs(
    stage: Stage, worker: Echo, at_once: AtOnce, folder: Path
) -> None:
    """What runs bring goes with them: four hundred more leave no more than the hundred before them."""

    def after(number: int) -> int:
        runs = [stage.submit(layers(1)) for _ in range(number)]
        removed(stage, *runs[-1:], seconds=60)
        eventually(lambda: not any(stage.client.zcard(stage.keys.shard(it).ended) for it in range(4)), "all", 60)
        eventually(stage.quiet, "quiet")
        stage.client.execute_command("MEMORY", "PURGE")
        return int(stage.client.info("memory")["used_memory_dataset"])

    with stage.scheduler(at_once, retention=at_once_to(folder)) as scheduler:
        first = after(100)
        second = after(400)
        assert scheduler.counts["removed"] == 500
    assert second - first < 50_000, f"{first} bytes, then {second}"
    idle(stage)
