"""Failure policy as people meet it: a document, the command line, real schedulers and real Celery workers."""

from __future__ import annotations

import json
from pathlib import Path

from .stack import Stack, eventually

GRAPH = """
celeriac: 1
name: prices
nodes:
  - key: ask
    executor: shop.fail
    inputs: {text: the provider is down}
    retry:
      steps:
        - {step: again, attempts: 2, base_seconds: 0.01}
        - {step: changed, inputs: {text: it is down for all}, on: [transient]}
        - {step: other, executor: "capability:sum", inputs: {x: 40.0, y: 2.0}}
  - {key: receipt, executor: shop.step, inputs: {name: {$ref: ask}}}
returns: ask
"""


def test_a_document_with_a_ladder_runs_from_the_command_line(tmp_path: Path) -> None:
    """Real workers fail, get other inputs, then another executor by capability; `runs show` tells whose it is."""
    (tmp_path / "prices.yaml").write_text(GRAPH)

    with Stack(tmp_path) as stack:
        stack.scheduler()
        stack.worker()
        with stack.client() as client:
            eventually(lambda: "shop.add" in client._access.runs.contracts(), "the worker's contracts")
            stack.told("graph", "check", str(tmp_path / "prices.yaml"))
            stack.told("capabilities", "bind", "sum", "shop.add", "--by", "ann", "--reason", "try it")
            assert json.loads(stack.told("run", str(tmp_path / "prices.yaml"))) == 42.0
            [summary] = client.runs()
            log = [(it.move, it.attempt, it.why) for it in client.run(summary.id).events() if it.node == "ask"]
        shown = stack.told("runs", "show", summary.id, "--nodes")
    assert "capability:sum (fallback_from shop.fail)" in shown
    last = "rung 3 of 3, executor capability:sum, fallback_from shop.fail"
    assert [why for move, _, why in log if move == "dispatch"] == [
        "",
        "",
        "rung 2 of 3, with changed inputs",
        f"{last}; capability sum: executor shop.add, bound by ann: try it",
    ]
    retries = [why for move, _, why in log if move == "retry"]
    assert retries[0].startswith("transient: rung 1 of 3, the same again in ")
    assert retries[2] == f"transient: {last} in 0 ms, failed 3 of at most 4 times"
    assert log[-1] == ("succeed", 4, last)
