"""What people ask of nodes, by the command line, on real schedulers and real Celery workers."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from scheduler.cli import main
from scheduler.graph import Graph

from .stack import Stack, eventually


def test_people_act_on_a_run_by_the_command_line(tmp_path: Path) -> None:
    """Cancel a region, skip, complete by hand, run again with a preview, deadline and priority, while a scheduler is
    killed in between; every one with who and why in `runs show`.
    """

    def celeriac(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(main, words, env={**stack.env, "CELERIAC_LOG_LEVEL": "error"})
        assert done.exit_code == code, f"{words}: {done.output}\n{done.exception!r}"
        return done.stdout if not code else done.output

    graph = Graph("verbs", retry=1)
    slow = graph.add("shop.step", key="slow", name="slow", seconds=30.0)
    with graph.region("prices"):
        price = graph.add("shop.step", key="price", name="price", seconds=30.0)
    graph.add("shop.step", key="mail", name="mail", after=price)
    after = graph.add("shop.step", key="after", name="after", after=slow)
    graph.add("shop.step", key="last", name="last", after=after)
    with Stack(tmp_path) as stack:
        stack.scheduler()
        stack.worker()
        with stack.client() as client:
            eventually(lambda: "shop.step" in client._access.runs.contracts(), "the worker's contracts")
            run = client.submit(graph)
            eventually(lambda: len(stack.ledger("begin")) == 2, "both begin")
            why = ("--reason", "prices change", "--by", "ann")
            celeriac("runs", "priority", run.id, "-3", *why)
            celeriac("runs", "deadline", run.id, "1h", *why)
            celeriac("runs", "skip", run.id, "last", *why)
            assert "has been sent" in celeriac("runs", "skip", run.id, "slow", code=1)
            celeriac("runs", "cancel", run.id, "--region", "prices", "--at-once", "--yes", *why)
            stack.kill("scheduler")
            stack.scheduler("another")
            assert celeriac("runs", "complete", run.id, "slow", '"by hand"', *why).strip() == run.id
            assert run.wait(60) == "failed"
            assert run.get("slow", 0) == "by hand"
            shown = celeriac("runs", "show", run.id, "--nodes")
            assert "cancelled by ann: prices change" in shown
            for verb in ("priority", "deadline", "skip", "cancel", "complete"):
                assert verb in shown
            assert "completed by ann" in shown
            preview = celeriac("runs", "rerun", run.id, "--from", "price", "--preview", "-o", "json")
            plan = [(it["key"], it["state"]) for it in json.loads(preview)["nodes"]]
            assert plan == [("price", "cancelled"), ("mail", "upstream_failed")]
            before = [it["name"] for it in stack.ledger("begin")].count("price")
            celeriac("runs", "rerun", run.id, "--from", "price", *why)
            eventually(lambda: [it["name"] for it in stack.ledger("begin")].count("price") > before, "it runs again")
            celeriac("pause", "--graph", "verbs", *why)
            assert "prices change" in celeriac("paused")
            celeriac("runs", "complete", run.id, "price", '"seven"')
            eventually(lambda: any("is paused by ann" in it.why for it in run.nodes()), "the mail waits")
            celeriac("resume", "--graph", "verbs")
            assert run.wait(60) == "succeeded"
            assert celeriac("runs", "cancel", "--graph", "verbs", "--yes") == ""
            assert [it["name"] for it in stack.ledger("begin")].count("slow") == 1, "what succeeded is not run again"
