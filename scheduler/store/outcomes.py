"""Outcomes of single nodes, and where a run's log ends: what a client asks while it waits.

Reads only. `Runs.load` answers for a whole run; here a question about one node of a hundred thousand costs
one round trip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..core.states import FIRST_ENDED, LETTERS, NodeState, RunState
from ..errors import RunNotFound
from ..wire import RunId
from .direct import exchange
from .keys import BUCKET
from .runs import Runs

NODES_PER_READ = 1000
RUNS_PER_READ = 1000


class Outcome(NamedTuple):
    """How far a node has come, and what it gave.

    Attributes:
        state: as last recorded; pending when nothing is.
        attempt: of its last try, 0 before the first.
        output: "i" when `raw` is the output, "b" when it names a blob, "n" when there is none, "" otherwise.
        cause: the upstream node for whose sake it was skipped or upstream_failed, or None.
        raw: JSON of the output, of the blob's description, or of the error record.
    """

    state: NodeState
    attempt: int
    output: str
    cause: int | None
    raw: bytes | None

    @property
    def settled(self) -> bool:
        """Whether it has ended and its output can be read. Both may come with different calls of one commit."""
        return self.state >= FIRST_ENDED and (self.raw is not None or self.output not in ("i", "b"))


PENDING = Outcome(NodeState.PENDING, 0, "", None, None)


def read_outcomes(runs: Runs, run: RunId, nodes: Sequence[int]) -> dict[int, Outcome]:
    """The outcome of each of these nodes, values included; one round trip per 1,000 nodes."""
    found: dict[int, Outcome] = {}
    for at in range(0, len(nodes), NODES_PER_READ):
        found.update(_read(runs, run, nodes[at : at + NODES_PER_READ]))
    return found


def read_states(runs: Runs, run: RunId, nodes: int) -> list[Outcome]:
    """The outcomes of all `nodes` nodes of a run, without their values; one round trip."""
    keys = runs.keys.shard(runs.shard(run))
    with runs.client.pipeline(transaction=False) as pipe:
        for bucket in range(-(-nodes // BUCKET)):
            pipe.hgetall(keys.nodes(run, bucket))
        buckets = pipe.execute()
    found = [PENDING] * nodes
    for bucket in buckets:
        for node, record in bucket.items():
            found[int(node)] = _outcome(record, None)
    return found


def run_state(runs: Runs, run: RunId) -> RunState:
    """The state of a run; the cheapest question there is.

    Raises:
        RunNotFound: there is none of that id.
    """
    state = runs.client.hget(runs.keys_of(run).run(run), "state")
    if state is None:
        raise RunNotFound(run)
    return RunState(state.decode())


def run_states(runs: Runs, ids: Sequence[RunId]) -> list[RunState | None]:
    """The states of many runs, None for one that is not there; one round trip per 1,000 runs."""
    found: list[RunState | None] = []
    for at in range(0, len(ids), RUNS_PER_READ):
        asked = [("HGET", runs.keys_of(run).run(run), "state") for run in ids[at : at + RUNS_PER_READ]]
        found += (None if it is None else RunState(it.decode()) for it in exchange(runs.client, asked))
    return found


def log_end(runs: Runs, run: RunId) -> str:
    """Id of the newest entry of a run's log; "0" when it has none. What is read after it is news."""
    newest = runs.client.xrevrange(runs.keys.shard(runs.shard(run)).log(run), count=1)
    return str(newest[0][0].decode()) if newest else "0"


def _read(runs: Runs, run: RunId, nodes: Sequence[int]) -> dict[int, Outcome]:
    keys = runs.keys.shard(runs.shard(run))
    buckets: dict[int, list[int]] = {}
    for node in nodes:
        buckets.setdefault(node // BUCKET, []).append(node)
    with runs.client.pipeline(transaction=False) as pipe:
        for bucket, members in buckets.items():
            pipe.hmget(keys.nodes(run, bucket), members)
            pipe.hmget(keys.values(run, bucket), members)
        answers = pipe.execute()
    found = {}
    for members, records, values in zip(buckets.values(), answers[::2], answers[1::2], strict=True):
        for node, record, value in zip(members, records, values, strict=True):
            found[node] = PENDING if record is None else _outcome(record, value)
    return found


def _outcome(record: bytes, value: bytes | None) -> Outcome:
    """The parts of a record (core/run.py draws it) that tell how the node ended."""
    letter, _epoch, attempt, _failures, _losses, _timeline, last = record.decode().split("|", 6)
    state = NodeState(LETTERS.index(letter))
    output = last[:1] if last[:1] in ("i", "b", "n") else ""
    cause = int(last) if last and not output and state >= FIRST_ENDED else None
    return Outcome(state, int(attempt), output, cause, value)
