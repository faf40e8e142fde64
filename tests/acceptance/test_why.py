"""Why did it fail, and would it again? By the command line, on real schedulers and workers that are killed."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from scheduler.cli import main
from scheduler.graph import Graph, Retry

from .stack import Stack, eventually


def shop() -> Graph:
    """A sum, a choice by it, a long step whose worker dies, and a failure that two nodes follow from."""
    graph = Graph("why", retry=Retry(2, base_seconds=0.05))
    total = graph.add("shop.add", key="sum", x=40.0, y=2.0)
    size = graph.choice("size", {"large": total.out > 1000.0}, otherwise="small")
    graph.add("shop.step", key="lorry", name="lorry", after=size["large"])
    long = graph.add("shop.late", key="long", name="long", seconds=2.0, after=size["small"])
    failed = graph.add("shop.fail", key="fails", text="no stock", after=long)
    graph.add("shop.step", key="last", name="last", after=graph.add("shop.step", key="next", name="next", after=failed))
    return graph


def test_a_failure_is_explained_exported_and_decided_again(tmp_path: Path) -> None:
    """Through a killed worker and a killed scheduler: every decision is cited and checked; the file replays alone."""

    def celeriac(*words: str) -> Result:
        return CliRunner().invoke(main, words, env={**stack.env, "CELERIAC_LOG_LEVEL": "error"})

    path = tmp_path / "run.jsonl.gz"
    with Stack(tmp_path, CELERIAC_SHARD_LEASE_SECONDS="2") as stack:
        stack.scheduler()
        stack.worker()
        with stack.client() as client:
            eventually(lambda: "shop.late" in client._access.runs.contracts(), "the worker's contracts")
            run = client.submit(shop())
            eventually(lambda: stack.ledger("begin"), "the long one begins")
            stack.kill("standard-low")
            stack.kill("scheduler")
            stack.scheduler("another")
            stack.worker()
            assert run.wait(120) == "failed"
            said = celeriac("why", run.id, "last", "--check")
            assert said.exit_code == 0, said.output
            for told in ("node last is upstream_failed", "next upstream_fail", "fails fail", "ValueError: no stock"):
                assert told in said.stdout, said.stdout
            assert "checked: the core decides the same" in said.stdout
            lost = json.loads(celeriac("why", run.id, "long", "--json", "--check").stdout)
            assert [it["move"] for it in lost["steps"]][-1] == "succeed"
            assert lost["differs"] == []
            assert "lose" in [it["move"] for it in lost["steps"]]
            events = celeriac("runs", "events", run.id, "--follow", "--node", "long").stdout
            assert [line.split("\t")[3] for line in events.splitlines()] == [it["move"] for it in lost["steps"]]
            assert celeriac("why", run.id, "--check").exit_code == 0
            assert "fails" in celeriac("why", run.id).stdout
            drawn = celeriac("graph", "draw", "--run", run.id).stdout
            assert "? size" in drawn
            assert "upstream_failed" in drawn
            assert celeriac("runs", "export", run.id, "-o", str(path)).exit_code == 0
            reason = run.summary().reason
    again = CliRunner().invoke(main, ["runs", "replay", str(path), "--json"], env={"CELERIAC_REDIS_URL": ""})
    assert again.exit_code == 0, again.output
    told = json.loads(again.stdout)
    assert (told["state"], told["reason"], told["difference"]) == ("failed", reason, None)
