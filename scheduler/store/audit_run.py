"""Does one run agree with itself? Its fields, records, counters, values, history, attempts and timers.

For audit.py, which asks several times, so that what a commit is just about to write is not told.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..core.run import Run
from ..core.states import ENDED_RUNS, FIRST_ENDED, IN_FLIGHT, LETTERS, TARGET, MoveKind, NodeState, RunState
from ..core.waiting import timer_of_wait
from ..wire import RunId, is_run_id
from .keys import BUCKET, ShardKeys
from .runs import Runs

RESTART = "Restart its scheduler: whoever takes the shard over removes what no record knows and decides the rest again."
AGAIN = "`celeriac runs cancel` it, then `celeriac runs retry` it."
SUBMIT = "The store has lost a part of it: submit the graph again."
_LOG_PAGE = 500
_ENDS = {kind.word: LETTERS[TARGET[kind]] for kind in MoveKind if TARGET[kind] >= FIRST_ENDED}
_SHOWN = 3


class Difference(NamedTuple):
    """Two things in the store that should agree and do not.

    Attributes:
        where: the run, shard or key.
        what: which promise, and for which part; two readings that differ in the same have the same identity.
        found: in words.
        remedy: what to do.
    """

    where: str
    what: str
    found: str
    remedy: str

    @property
    def identity(self) -> tuple[str, str]:
        """What it is about, without the figures, which change while the system works."""
        return self.where, self.what


class _Read(NamedTuple):
    """One run at one instant."""

    fields: dict[bytes, bytes]
    spec: dict[bytes, bytes]
    live: float | None
    ended: float | None
    records: dict[int, bytes]
    values: set[int]


def audit_run(runs: Runs, keys: ShardKeys, run: str) -> Iterator[Difference]:
    """What differs in one run. One transaction for its records, O(nodes + edges) time and memory."""
    where = f"run {run}"
    if not is_run_id(run):
        yield Difference(where, "id", "is listed, and is no run id", f"redis-cli ZREM {keys.live} {run}")
        return
    id_ = RunId(run)
    nodes = runs.client.hget(keys.run(id_), "nodes")
    if nodes is None:
        yield Difference(where, "there", "is listed, and is not there", f"redis-cli ZREM '{keys.live}' {run}")
        return
    told = _history(runs, id_)  # before the records: a commit writes its log after them
    try:
        read = _read(runs, keys, id_, int(nodes))
        header = json.loads(zlib.decompress(read.fields[b"header"]))
        if len(read.spec) != header["pages"]:
            raise ValueError(f"its graph has {len(read.spec)} of {header['pages']} pages")
        loaded = Run.load(
            run,
            header,
            [page for _, page in sorted((int(number), page) for number, page in read.spec.items())],
            read.records.items(),
            created_at_ms=int(read.fields[b"created_at_ms"]),
        )
        state = RunState(read.fields[b"state"].decode())
        if loaded.n != int(nodes):
            raise ValueError(f"its graph has {loaded.n} of {int(nodes)} nodes")
    except (KeyError, ValueError, IndexError, TypeError, zlib.error) as broken:
        yield Difference(where, "readable", f"cannot be read: {type(broken).__name__}: {broken}", SUBMIT)
        return
    for what, found, remedy in (
        *_state(state, read, loaded),
        *_progress(state, read, loaded),
        *_rules(loaded),
        *_values(runs, keys, loaded, read),
        *_past(state, loaded, told),
        *_pending(runs, keys, loaded, state),
    ):
        yield Difference(where, what, found, remedy)


Found = Iterator[tuple[str, str, str]]


def _read(runs: Runs, keys: ShardKeys, run: RunId, nodes: int) -> _Read:
    """A run at one instant; of its values only for which nodes there are some."""
    buckets = range(-(-nodes // BUCKET))
    with runs.client.pipeline(transaction=True) as pipe:
        pipe.hgetall(keys.run(run))
        pipe.hgetall(keys.spec(run))
        pipe.zscore(keys.live, run)
        pipe.zscore(keys.ended, run)
        for bucket in buckets:
            pipe.hgetall(keys.nodes(run, bucket))
            pipe.hkeys(keys.values(run, bucket))
        fields, spec, live, ended, *rest = pipe.execute()
    records = {int(node): record for found in rest[::2] for node, record in found.items()}
    return _Read(fields, spec, live, ended, records, {int(node) for found in rest[1::2] for node in found})


def _state(state: RunState, read: _Read, it: Run) -> Found:
    """The run's state, its open nodes, and the index that lists it."""
    over = state in ENDED_RUNS
    if over and it.open:
        yield "open nodes", f"is {state}, and {it.open} of its nodes are open", AGAIN
    if not over and not it.open:
        yield "open nodes", f"is {state}, and none of its nodes is open", RESTART
    if state is RunState.SUCCEEDED and it.bad and not read.fields.get(b"reason", b"").startswith(b"stopped: "):
        yield "end", f"is succeeded, and {it.bad} of its last nodes are not", SUBMIT
    if over != (b"ended_at_ms" in read.fields):
        yield "ended at", f"is {state}, and {'has no' if over else 'has an'} instant of its end", RESTART
    for listed, wanted, name in ((read.live, not over, "live"), (read.ended, over, "ended")):
        if (listed is not None) != wanted:
            yield f"listed {name}", f"is {state}, and is {'not ' if wanted else ''}listed as {name}", RESTART


def _progress(state: RunState, read: _Read, it: Run) -> Found:
    """The counters that lists show are a recount of the records."""
    counted = Counter(it.tally_by_state())
    told = Counter(json.loads(read.fields.get(b"progress", b"{}"))) or Counter(pending=it.n)
    for counts in (counted, told):  # a node that is ready and was never sent has no record
        counts["open"] = counts.pop("pending", 0) + counts.pop("ready", 0)
    if +counted != +told:
        remedy = "The records count; lists show the counters." if state in ENDED_RUNS else "Its next commit mends it."
        yield "progress", f"its counters say {_words(told)}, its records {_words(counted)}", remedy


def _rules(it: Run) -> Found:
    """No node began whose upstream nodes have not ended."""
    early = []
    for node, state in enumerate(it.state):
        upstream, *ended = it.counts(node)
        open_ = upstream - sum(ended)
        begun = state in IN_FLIGHT or state in (NodeState.WAITING, NodeState.SUCCEEDED, NodeState.FAILED)
        if state == NodeState.FAILED and it.guards is not None:
            continue  # the guard of an edge may have ended it early
        waits = it.profiles[it.profile[node]].rule.answer(upstream, *ended).name == "WAIT"
        if begun and open_ and waits and not any(one.end == "completed" for one in it.tries(node)):
            early.append(node)  # but for what a person has completed, due or not
    if early:
        yield "order", f"{_nodes(it, early)} began before what it waits for had ended", SUBMIT


def _values(runs: Runs, keys: ShardKeys, it: Run, read: _Read) -> Found:
    """Who succeeded with an output has it, and a large one lasts."""
    blobs = []
    gone = []
    for node, state in enumerate(it.state):
        kind = chr(it.output_kind[node] or 110)
        if (state == NodeState.FAILED or kind in "ib") and node not in read.values:
            gone.append(node)
        elif kind == "b":
            blobs.append(node)
    if gone:
        yield "values", f"{_nodes(it, gone)} has ended, and its output or error is not there", SUBMIT
    if read.values - read.records.keys():
        strays = sorted(read.values - read.records.keys())
        yield "stray values", f"{_nodes(it, strays)} has a value and no record", RESTART
    for at in range(0, len(blobs), _LOG_PAGE):
        some = blobs[at : at + _LOG_PAGE]
        with runs.client.pipeline(transaction=False) as pipe:
            for node in some:
                pipe.ttl(keys.blob(it.attempt_id(keys.shard, node)))
            answers = pipe.execute()
        for node, ttl in zip(some, answers, strict=True):
            if ttl == -2:
                yield f"blob {node}", f"the large output of {_nodes(it, [node])} is gone", SUBMIT
            elif ttl >= 0:
                key = keys.blob(it.attempt_id(keys.shard, node))
                said = f"the large output of {_nodes(it, [node])} vanishes in {ttl} s"
                yield f"blob {node}", said, f"redis-cli PERSIST '{key}'"


def _past(state: RunState, it: Run, told: tuple[dict[int, str], str]) -> Found:
    """What the log says of ends is what the records say. It may lack lines that a crash cut off, never have more."""
    ends, last = told
    differ = [node for node, word in ends.items() if node >= it.n or LETTERS[it.state[node]] != _ENDS[word]]
    if differ:
        node = differ[0]
        words = f"the log ends it by {ends[node]}, its record does not"
        yield "history", f"{_nodes(it, differ)}: {words}", "The record counts; see `celeriac runs show --nodes`."
    if last in ENDED_RUNS and last != state:
        yield "history of the run", f"is {state}, and its log says {last}", RESTART
    if not ends and not last and any(one >= FIRST_ENDED for one in it.state) and state in ENDED_RUNS:
        yield "no history", "has ended, and its log is empty", "What happened is lost; what came of it stands."


def _pending(runs: Runs, keys: ShardKeys, it: Run, state: RunState) -> Found:
    """What is out is in flight with a lease, and what waits for an instant has a timer."""
    if state in ENDED_RUNS:
        return
    flying = [node for node, one in enumerate(it.state) if one in IN_FLIGHT]
    wanted = {
        node: name
        for node, one in enumerate(it.state)
        if one == NodeState.WAITING and (name := timer_of_wait(it, node)) is not None
    }
    waiting = list(wanted)
    ids = [it.attempt_id(keys.shard, node) for node in flying]
    timers = [f"{it.id} {name}" for name in wanted.values()]
    found = runs.client.hmget(keys.attempts, ids) if ids else []
    due = runs.client.zmscore(keys.timers, timers) if timers else []
    for node, attempt in zip(flying, found, strict=True):
        # what is being cancelled is claimed by nobody any more
        if attempt is None and state is RunState.RUNNING and node not in it.leaving:
            yield f"out {node}", f"{_nodes(it, [node])} was sent, and its attempt is not in flight", AGAIN
    for node, at in zip(waiting, due, strict=True):
        if at is None:
            yield f"waits {node}", f"{_nodes(it, [node])} waits for its instant, and no timer is set", AGAIN
    if state is RunState.CANCELLING and runs.client.zscore(keys.timers, f"{it.id} grace") is None:
        yield "grace", "is being cancelled, and no timer ends that", RESTART


def _history(runs: Runs, run: RunId) -> tuple[dict[int, str], str]:
    """Node -> the word that ended it, as the log has it, and the run's last state there."""
    ends: dict[int, str] = {}
    last, after = "", "0"
    while entries := runs.log(run, after, count=_LOG_PAGE):
        after = entries[-1][0]
        for node, word, *_ in (move for _, moves in entries for move in moves):
            if node < 0:
                last = word if word in set(RunState) else last
            elif word in _ENDS:
                ends[node] = word
            elif word == "reopen":
                ends.pop(node, None)
    return ends, last


def _nodes(it: Run, nodes: Sequence[int]) -> str:
    """Nodes by the user's keys, the first few."""
    shown = ", ".join(repr(it.keys[node][:60]) if node < it.n else f"number {node}" for node in nodes[:_SHOWN])
    return f"node {shown}{f' and {len(nodes) - _SHOWN} more' if len(nodes) > _SHOWN else ''}"


def _words(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{number} {word}" for word, number in sorted(counts.items()) if number) or "nothing"
