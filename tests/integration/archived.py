"""What the tests of retention and removal stand on: a graph that ends in every way, and a look into its archive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from scheduler.archive import Archive, open_archive
from scheduler.graph import Graph, Retry
from scheduler.wire import RunId
from tests.integration.echo import Ending, Task, echo, failure
from tests.integration.stage import Stage, eventually


def at_once_to(folder: Path, **more: Any) -> dict[str, Any]:
    """Settings that archive a run as soon as it has ended."""
    return {"retention_seconds": 0, "archive_url": str(folder), **more}


def removed(stage: Stage, *runs: RunId, seconds: float = 20.0) -> None:
    """Wait until Redis has nothing of these runs any more."""
    eventually(lambda: stage.runs.summaries(runs) == [None] * len(runs), "the removal", seconds)
    gone = [stage.keys.shard(shard).gone for shard in range(stage.shards)]
    eventually(lambda: not any(map(stage.client.hlen, gone)), "the end of the sweep", seconds)
    assert not any(stage.client.keys(f"*{run}:*") for run in runs)


def archive_of(folder: Path) -> Archive:
    """The archive in a folder."""
    found = open_archive(str(folder))
    assert found is not None
    return found


def states(folder: Path, run: RunId) -> dict[str, str]:
    """Node key -> state, as archived."""
    shelf = archive_of(folder).find(run)
    assert shelf is not None
    return {view.key: view.state.word for view in _views(shelf, run)}


def _views(shelf: Any, run: RunId) -> list[Any]:
    from scheduler.client.views import Workers, view_nodes

    return list(view_nodes(shelf.load(run), {}, Workers.read(shelf, None)))


def everything() -> Graph:
    """Every way a node can end, and large outputs."""
    graph = Graph("everything", retry=Retry(max_attempts=3, base_seconds=0.001, cap_seconds=0.002))
    a = graph.add("echo", key="a", value="ä%s{}'\"\n\u2028")
    big = graph.add("echo", key="big", value=a)
    flaky = graph.add("echo", key="flaky", after=a)
    broken = graph.add("echo", key="broken", after=a, labels={"team": "x"})
    graph.add("echo", key="after broken", after=broken)
    graph.add("echo", key="rescue", error=broken.error, trigger_rule="one_failed")
    graph.add("echo", key="left out", after=a, trigger_rule="all_failed")
    graph.returns(graph.add("echo", key="join", x=big, after=[flaky]))
    return graph


def act(task: Task) -> Ending | None:
    """What each node of `everything` does."""
    if task.node == "flaky" and task.attempt == 1:
        return failure()
    if task.node == "broken":
        return failure("permanent", "for good: ünicode")
    if task.node == "big":
        return Ending(value={"text": "x" * 3_000_000}, kind="blob")
    return Ending(value={"joined": 1}) if task.node == "join" else echo(task)


def blocked(folder: Path) -> Callable[[], None]:
    """A file where the folder should be: nothing can be written, whoever asks."""
    folder.write_text("in the way")
    return folder.unlink
