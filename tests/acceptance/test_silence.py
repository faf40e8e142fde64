"""Executors that say that they go on, and one that does not, on real Celery workers of processes and of threads."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler import NodeFailed
from scheduler.graph import Graph, Timing

from .stack import Stack, eventually


@pytest.mark.parametrize("queue_class", ["standard-low", "interactive-low"])
def test_silence_ends_an_attempt_and_its_worker_goes_on(tmp_path: Path, queue_class: str) -> None:
    """The one that speaks works far longer than it may be silent; the silent one is a timeout, and the worker lives."""
    graph = Graph("silence", queue_class=queue_class, retry=1)
    limit = Timing(silence="2s")
    graph.add("shop.pulse", key="lively", name="lively", seconds=6, every=0.1, timing=limit)
    quiet = graph.add("shop.pulse", key="quiet", name="quiet", seconds=600, timing=limit)
    graph.add("shop.step", key="after", name="after", after=quiet, trigger_rule="all_done")
    with Stack(tmp_path, CELERIAC_HEARTBEAT_SECONDS="0.5") as stack:
        stack.scheduler()
        stack.worker(queue_class)
        with stack.client() as client:
            eventually(lambda: "shop.pulse" in client._access.runs.contracts(), "the worker's contracts")
            run = client.submit(graph)
            assert run.wait(120) == "succeeded"
            assert run.get("lively") == "lively"
            with pytest.raises(NodeFailed, match="no heartbeat for 2 s") as failed:
                run.get("quiet")
            assert failed.value.kind == "timeout"
            assert {it.key: len(it.tries) for it in run.nodes()} == {"lively": 1, "quiet": 1, "after": 1}
        assert sorted(it["name"] for it in stack.ledger("end")) == ["after", "lively"]


def test_an_executor_hears_that_it_is_not_wanted_any_more(tmp_path: Path) -> None:
    """In a thread nobody can stop it; it asks, is told, and returns long before its work is done."""
    graph = Graph("unwanted", queue_class="interactive-low")
    graph.add("shop.pulse", key="long", name="long", seconds=600, every=0.1)
    with Stack(tmp_path, CELERIAC_HEARTBEAT_SECONDS="0.5") as stack:
        stack.scheduler()
        stack.worker("interactive-low")
        with stack.client() as client:
            eventually(lambda: "shop.pulse" in client._access.runs.contracts(), "the worker's contracts")
            run = client.submit(graph)
            eventually(lambda: stack.ledger("begin"), "its begin")
            run.cancel("enough", nodes=["long"], at_once=True)
            assert {it.key: it.state.word for it in run.nodes()} == {"long": "cancelled"}
            assert eventually(lambda: stack.ledger("unwanted"), "that it heard")[0]["name"] == "long"
