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
    """Error records of those nodes that have failed, or whose last attempt did: node -> record."""
    wanted = [node for node in nodes if run.state[node] != NodeState.SUCCEEDED]
    records = {node: json.loads(raw) for node, raw in runs.values(RunId(run.id), wanted).items()}
    return {node: record for node, record in records.items() if isinstance(record, dict)}
