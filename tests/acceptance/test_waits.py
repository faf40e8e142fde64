"""Signals, approvals, timers and jobs outside, on real schedulers and real Celery workers, told by the command line."""

from __future__ import annotations

import json
from pathlib import Path

from scheduler.graph import Graph, Timing

from .stack import Stack, eventually


def business() -> Graph:
    """A job at somebody else's, a payment, a person's word; then the rest."""
    graph = Graph("order")
    render = graph.add("shop.step", key="render", name="render", timing=Timing(outside="10m"))
    paid = graph.signal("paid", schema={"type": "object", "required": ["sum"]}, within="1h")
    review = graph.approval("review", "Ship it?", who=["ann"], within="1h", shown={"sum": paid.out.sum})
    nap = graph.timer("nap", "1s", after=review)
    graph.add("shop.step", key="ship", name="ship", after=[render, nap], when=review.out.choice == "approve")
    return graph


def test_a_run_waits_for_the_world_without_a_worker(tmp_path: Path) -> None:
    """Nobody holds anything meanwhile: scheduler and worker are killed while all wait, and the run ends as told."""
    with Stack(tmp_path) as stack:
        stack.scheduler()
        stack.worker()
        with stack.client() as client:
            eventually(lambda: "shop.step" in client._access.runs.contracts(), "the worker's contracts")
            run = client.submit(business())
            eventually(lambda: {it.key: it.state.word for it in run.nodes()}["render"] == "waiting", "the job is begun")
            [token] = [it["id"] for it in stack.ledger("begin")]
            stack.kill("scheduler")
            stack.kill("standard-low")
            stack.scheduler("another")
            stack.worker(name="other")

            refused = stack.invoke("signal", run.id, "paid", "{}")
            assert refused.exit_code == 6, refused.output
            assert "'sum' is a required property" in refused.stderr
            assert stack.invoke("signal", run.id, "paid", '{"sum": 7}', "--key", "p-1", "--by", "shop").exit_code == 0
            eventually(lambda: run.id in stack.invoke("approvals", "ls", "--by", "ann").stdout, "the question")
            assert run.id not in stack.invoke("approvals", "ls", "--by", "bob").stdout
            shown = json.loads(stack.invoke("approvals", "show", run.id, "review", "-o", "json").stdout)
            assert (shown["question"], shown["shown"], shown["may_answer"]) == ("Ship it?", {"sum": 7}, ["ann"])
            wrong = stack.invoke("approvals", "approve", run.id, "review", "--by", "bob")
            assert wrong.exit_code == 1, wrong.output
            assert "may not answer" in wrong.stderr
            told = stack.invoke("approvals", "approve", run.id, "review", "--by", "ann", "--comment", "fine")
            assert told.exit_code == 0, told.output
            late = stack.invoke("approvals", "reject", run.id, "review", "--by", "ann")
            assert late.exit_code == 1, late.output

            # one documented command, from any language
            inbox = f"{{cel:{token.partition('.')[0]}}}:inbox"
            record = json.dumps({"v": 1, "token": token, "output": {"pages": 12}})
            client._access.runs.client.execute_command("XADD", inbox, "*", "job", record)
            assert run.wait(120) == "succeeded"
            assert run.get("render") == {"pages": 12}
            assert run.get("review")["comment"] == "fine"
        assert [it["name"] for it in stack.ledger("begin")] == ["render", "ship"]
