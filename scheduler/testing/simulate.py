"""simulate: a graph is run through the scheduler's own core, with scripted outcomes and a clock that only it moves.

    played = simulate(g, {"score": {"value": 0.9}, "publish": [Fails("timeout"), "done"]})
    assert played.states["mail"] == "skipped"

Whatever the scheduler decides is decided by the same code as in production (core/decide.py); what workers, people and
time do is the script's. No Redis, no Celery, no threads, no waiting: a wait of ninety days takes no longer than any
other. The same call gives the same run, to the last millisecond.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ..graph import Graph
from .errors import Stuck
from .outcomes import UNSET, Duration
from .playing import Play
from .script import Script, Signal
from .simulation import Simulation

START = datetime(2024, 1, 1, tzinfo=UTC)
"""When simulated runs begin, unless the test says otherwise; it matters to waits until an instant."""


def simulate(  # noqa: PLR0913  a script has that many parts, all of them optional and by keyword
    graph: Graph,
    outcomes: Mapping[str, Any] | None = None,
    *,
    default: Any = UNSET,
    executors: Mapping[str, Any] | None = None,
    signals: Iterable[Signal | Sequence[Any]] = (),
    answers: Mapping[str, Any] | None = None,
    deadline: Duration | None = None,
    secrets: Mapping[str, str] | None = None,
    contracts: Mapping[str, Mapping[str, Any]] | None = None,
    policy: Mapping[str, Any] | None = None,
    start: datetime = START,
    seed: int = 0,
    may_wait: bool = False,
) -> Simulation:
    """Run a graph in memory, at once. Some 0.1 ms a node, and what executors that really run take.

    Args:
        graph: as it would be submitted; it is compiled and checked as then.
        outcomes: node key -> how its attempts end; outcomes.py says what may stand there. Of a node that somebody
            outside ends (`Timing(outside=)`), how and when the job ends; its worker has begun it at once.
        default: the outcome of every node that has no other.
        executors: executor or "capability:name", as the graph names it -> outcome, for nodes that have none of their
            own; so a step of a retry ladder can end otherwise than the one before.
        signals: ("name", payload) or Signal(...); each comes once, when a node waits for it or at its own instant.
        answers: node key -> a choice or Answer(...), or a list of them, one for each time that the node asks.
        deadline: of the run, after its start.
        secrets: name -> value, exchanged in inputs; others stay {"$secret": name}.
        contracts: executor -> contract, as `Executor.contract()` gives it: checked as at submit, and asked for purity
            and time limits.
        policy: the document of a policy that the run takes up as it begins, such as `tomllib.loads(...)` of its file.
        start: when the run begins, with a zone.
        seed: of the chance that spreads retries.
        may_wait: a run that cannot go on is a result, with `waits`, and no error.

    Returns:
        What happened.

    Raises:
        GraphError: the graph cannot be run, or the script does not fit it.
        Unscripted: a node was sent that has no outcome.
        Stuck: the run waits for what is not scripted, and may not.
    """
    script = Script(
        dict(outcomes or {}),
        default,
        dict(executors or {}),
        list(signals),
        dict(answers or {}),
        deadline,
        dict(secrets or {}),
        dict(contracts or {}),
        policy,
    )
    played = Play(graph, script, start, seed).play()
    if played.waits and not may_wait:
        raise Stuck(played.waits, played)
    return played
