"""A run's log, decided again from an exported file, must give the same decisions."""

from __future__ import annotations

from pathlib import Path

from scheduler.archive.bundle import read_bundle, replay, write_bundle
from scheduler.core.history import lines_of
from scheduler.core.replay import Replay
from scheduler.wire import RunId
from tests.integration.stage import Stage


def decided_again(stage: Stage, run: RunId, folder: Path) -> Replay:
    """Export a run as it stands, and replay the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{run}.jsonl.gz"
    assert write_bundle(stage.runs, run, path, {"celeriac": "test"})
    bundle = read_bundle(path)
    found = replay(bundle.shelf, bundle.run, whole=bundle.facts["whole"])
    assert found.difference is None, found.difference
    moves = [it for it in lines_of(stage.runs.history(run)) if it.is_move or it.is_of_run]
    assert found.decisions <= len(moves)
    assert found.run.run_state == stage.runs.summary(run).state
    return found
