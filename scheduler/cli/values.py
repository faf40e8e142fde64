"""Outputs and errors of nodes, read from the store alone; large outputs are fetched from where they were put aside."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ..core.run import Run
from ..core.states import NodeState
from ..store.runs import Runs
from ..wire import RunId

_BLOB = ord("b")
_WITH_ERROR = (NodeState.FAILED, NodeState.CANCELLED, NodeState.SKIPPED)


def outputs_of(runs: Runs, run: Run, nodes: Iterable[int]) -> dict[int, Any]:
    """Outputs of those nodes that have succeeded: node -> value."""
    wanted = [node for node in nodes if run.state[node] == NodeState.SUCCEEDED]
    found = {}
    for node, raw in runs.values(RunId(run.id), wanted).items():
        value = json.loads(raw)
        if run.output_kind[node] == _BLOB:
            blob = runs.blob(value["blob"])
            value = None if blob is None else json.loads(blob)
        found[node] = value
    return found


def errors_of(runs: Runs, run: Run, nodes: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Error records of nodes that failed, or whose last attempt did, or that a person has ended: node -> record."""
    wanted = [node for node in nodes if run.state[node] in _WITH_ERROR or _lost_tries(run, node)]
    records = {node: json.loads(raw) for node, raw in runs.values(RunId(run.id), wanted).items()}
    # a node that was opened again may have its old output there
    return {node: record for node, record in records.items() if isinstance(record, dict) and "kind" in record}


def _lost_tries(run: Run, node: int) -> bool:
    """Whether an attempt of this epoch went wrong."""
    wrong = run.failures[node] or run.losses[node] or run.excused[node]
    return bool(wrong) and run.state[node] != NodeState.SUCCEEDED
