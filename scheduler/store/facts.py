"""What a graph's expressions may read of a node's stored output or error; for who explains or replays a run."""

from __future__ import annotations

import json

from ..core.guards import Facts
from ..core.run import Run
from ..core.states import NodeState
from ..wire import RunId
from .runs import Runs

_BLOB = ord("b")


def facts_in_store(runs: Runs, run: Run, node: int) -> Facts | None:
    """What expressions read of a node's stored value; None when it is not there, or the graph has no expressions.

    Args:
        run: loaded with its records, for they say what the value is.
    """
    raw = None if run.guards is None else runs.values(RunId(run.id), [node]).get(node)
    if run.guards is None or raw is None:
        return None
    failed = run.state[node] == NodeState.FAILED
    try:
        found = json.loads(raw)
        if not failed and run.output_kind[node] == _BLOB:
            raw = runs.blob(str(found.get("blob")))
            found = None if raw is None else json.loads(raw)
    except (ValueError, RecursionError, AttributeError):  # a large output that is no JSON: nothing can be read of it
        found = None
    return run.guards.facts(node, "error" if failed else "output", found)
