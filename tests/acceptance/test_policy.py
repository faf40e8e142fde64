"""A policy is deployed, and changed, while real workers run: they are not touched, and the runs go by it."""

from __future__ import annotations

from pathlib import Path

from scheduler.graph import Graph

from .stack import Stack, eventually

POLICY = """
version = "{version}"
adopt = "running"
[executors."shop.*"]
checks = ["no-waste"]
[checks.no-waste]
before = "!has(input.seconds) || input.seconds <= {most}"
deny = "hold"
"""


def test_a_policy_changes_and_workers_stay(tmp_path: Path) -> None:
    """What it holds waits over the death of the scheduler, and goes on by another version; each worker is the one
    process from first to last, and has heard of no policy.
    """
    file = tmp_path / "policy.toml"
    with Stack(tmp_path) as stack:
        stack.scheduler()
        stack.worker()
        worker = stack.processes["standard-low"].pid
        with stack.client() as client:
            eventually(lambda: "shop.step" in client._access.runs.contracts(), "the worker's contracts")
            file.write_text(POLICY.format(version=1, most=1))
            stack.celeriac("policy", "apply", str(file), "--by", "ann")
            graph = Graph("governed")
            graph.add("shop.step", key="quick", name="quick", seconds=0.1)
            slow = graph.add("shop.step", key="slow", name="slow", seconds=1.5)
            graph.add("shop.step", key="last", name="last", after=slow)
            run = client.submit(graph)
            eventually(lambda: {it.key: it.state.word for it in run.nodes()}["quick"] == "succeeded", "what is allowed")
            eventually(
                lambda: (
                    "blocked by policy 1: the check 'no-waste' denies it"
                    in stack.told("runs", "show", run.id, "--nodes")
                ),
                "what is held says why",
            )
            stack.kill("scheduler")
            stack.scheduler("another")
            again = client.submit(graph)
            eventually(lambda: {it.key: it.state.word for it in again.nodes()}["quick"] == "succeeded", "another owner")
            assert [it["name"] for it in stack.ledger("begin")] == ["quick", "quick"]
            file.write_text(POLICY.format(version=2, most=2))
            stack.celeriac("policy", "apply", str(file), "--by", "ann", "--reason", "slow steps are fine")
            assert run.wait(60) == "succeeded"
            assert again.wait(60) == "succeeded"
            assert "instead of version 1" in stack.told("runs", "events", run.id)
            assert sorted(it["name"] for it in stack.ledger("end")) == [
                "last",
                "last",
                "quick",
                "quick",
                "slow",
                "slow",
            ]
            assert (stack.processes["standard-low"].pid, stack.processes["standard-low"].poll()) == (worker, None)
        assert "no-waste" not in (tmp_path / "standard-low.log").read_text()
