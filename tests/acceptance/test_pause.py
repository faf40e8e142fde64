"""`celeriac runs pause` and `resume`, on real schedulers and real Celery workers."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from scheduler.cli import main
from scheduler.graph import Graph

from .stack import Stack, eventually


def test_a_run_is_paused_and_goes_on(tmp_path: Path) -> None:
    """What runs ends, nothing more begins, also when the scheduler is killed meanwhile; the rest runs after resume."""

    def celeriac(*words: str) -> str:
        done = CliRunner().invoke(main, words, env={**stack.env, "CELERIAC_LOG_LEVEL": "error"})
        assert done.exit_code == 0, f"{words}: {done.output}\n{done.exception!r}"
        return done.stdout

    graph = Graph("paused")
    first = graph.add("shop.step", key="first", name="first", seconds=1.0)
    graph.add("shop.step", key="second", name="second", after=first)
    with Stack(tmp_path) as stack:
        stack.scheduler()
        stack.worker()
        with stack.client() as client:
            eventually(lambda: "shop.step" in client._access.runs.contracts(), "the worker's contracts")
            run = client.submit(graph)
            eventually(lambda: stack.ledger("begin"), "the first begins")
            assert celeriac("runs", "pause", run.id, "--reason", "prices change", "--by", "ann").strip() == run.id
            eventually(lambda: run.state == "paused", "the pause")
            assert run.id in celeriac("runs", "ls", "--state", "paused")
            eventually(lambda: {it.key: it.state.word for it in run.nodes()}["first"] == "succeeded", "the first ends")
            stack.kill("scheduler")
            stack.scheduler("another")
            other = client.submit(graph)
            assert other.wait(60) == "succeeded", "what is not paused goes on"
            assert "paused by ann: prices change" in celeriac("runs", "show", run.id, "--nodes")
            assert [it["name"] for it in stack.ledger("begin")].count("second") == 1, "that of the other run"
            celeriac("runs", "resume", run.id)
            assert run.wait(60) == "succeeded"
            assert [it["name"] for it in stack.ledger("end")].count("second") == 2
