"""What a graph's expressions may see of outputs: taken from reports as they arrive, and from the store for a run that
is loaded. For runs with expressions only, and only for nodes that one of them reads.

An output that lies aside as a blob is fetched for it: one GET, in the loop, so who decides on large outputs should hand
a small one to the decision. It is looked for where the attempt's blob must lie, whatever the report says.
"""

from __future__ import annotations

import json
from typing import Any

from ..core.guards import Facts
from ..core.run import Run
from ..core.states import NodeState
from ..store.runs import Runs
from ..wire import RunId

_BLOB = ord("b")


def facts_of(runs: Runs, run: Run, node: int, kind: str, output: bytes | None) -> Facts | None:
    """What expressions read of an output that has just been reported; None when they read nothing of it.

    Args:
        kind: inline, blob or none.
        output: raw JSON, checked already.
    """
    if run.guards is None or output is None or node not in run.guards.wanted:
        return None
    return run.guards.facts(node, "output", _value(runs, run, node, output, blob=kind == "blob"))


def recall(runs: Runs, run: Run) -> None:
    """Read again what a run's expressions may see of nodes that have ended; one round trip, and one for each blob."""
    if run.guards is None:
        return
    ends = {NodeState.SUCCEEDED: "output", NodeState.FAILED: "error"}
    ended = {node: ends[state] for node in run.guards.wanted if (state := NodeState(run.state[node])) in ends}
    if not ended:
        return
    for node, raw in runs.values(RunId(run.id), sorted(ended)).items():
        blob = ended[node] == "output" and run.output_kind[node] == _BLOB
        run.facts[node] = run.guards.facts(node, ended[node], _value(runs, run, node, raw, blob=blob))


def _value(runs: Runs, run: Run, node: int, raw: bytes, *, blob: bool) -> Any:
    """The value of raw JSON; of a blob that is gone, and of what is no JSON, nothing can be read."""
    found: bytes | None = raw
    if blob:
        id_ = RunId(run.id)
        found = runs.blob(runs.keys_of(id_).blob(run.attempt_id(runs.shard(id_), node)))
    try:
        return None if found is None else json.loads(found)
    except (ValueError, RecursionError):  # nobody has read a blob before; it must stop neither loop nor shard
        return None
