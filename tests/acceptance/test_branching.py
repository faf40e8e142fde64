"""Branching as people meet it: a document, the command line, real schedulers and real Celery workers."""

from __future__ import annotations

import json
from pathlib import Path

from .stack import Stack, eventually

GRAPH = """
celeriac: 1
name: prices
nodes:
  - {key: sum, executor: shop.add, inputs: {x: 40.0, y: 2.0}}
  - key: size
    choice:
      - {branch: large, when: "sum.output > 1000.0"}
      - {branch: middle, when: "sum.output > 10.0"}
    otherwise: small
  - {key: haggle, executor: shop.step, inputs: {name: haggle}, after: [{node: size, branch: large}]}
  - {key: pay, executor: shop.step, inputs: {name: pay}, after: [{node: size, branch: middle}]}
  - {key: gift, executor: shop.step, inputs: {name: gift}, after: [{node: size, branch: small}]}
  - {key: refund, executor: shop.step, inputs: {name: refund}, when: "sum.output < 0.0"}
  - {key: receipt, executor: shop.step, inputs: {name: receipt}, after: [pay, haggle, gift], trigger_rule: one_success}
returns: receipt
"""


def test_a_document_with_branches_runs_from_the_command_line(tmp_path: Path) -> None:
    """One branch is taken, by real workers; the drawing shows decisions apart from work, and `runs show` says why."""
    (tmp_path / "prices.yaml").write_text(GRAPH)

    with Stack(tmp_path) as stack:
        stack.scheduler()
        stack.worker()
        with stack.client() as client:
            eventually(lambda: "shop.add" in client._access.runs.contracts(), "the worker's contracts")
            stack.told("graph", "check", str(tmp_path / "prices.yaml"))
            assert "? size" in stack.told("graph", "draw", str(tmp_path / "prices.yaml"))
            assert json.loads(stack.told("run", str(tmp_path / "prices.yaml"))) == "receipt"
            [summary] = client.runs()
            run = client.run(summary.id)
            assert {it.key: it.state.word for it in run.nodes()} == {
                "sum": "succeeded",
                "size": "succeeded",
                "haggle": "skipped",
                "pay": "succeeded",
                "gift": "skipped",
                "refund": "skipped",
                "receipt": "succeeded",
            }
            assert run.get("size") == {"branch": "middle"}
            shown = stack.told("runs", "show", summary.id, "--nodes")
        assert "its condition is false: sum.output < 0.0" in shown
        assert [it["name"] for it in stack.ledger("end")] == ["pay", "receipt"]
