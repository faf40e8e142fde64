"""What must be true of all of Redis whenever no script is running: one function, called after every test of the store.

`problems` reads every key and lists what is wrong; an empty list is the promise. `idle` adds what holds once
schedulers have done all there is to do. Tests that play the scheduler or a worker by hand may leave attempts
without runs: those are judged by themselves (`runs_of_their_own=False`).
"""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from redis import Redis

from scheduler.core.guards import Guards
from scheduler.core.rules import Answer
from scheduler.core.run import KEPT_TRIES, Run
from scheduler.core.states import ENDED_RUNS, FIRST_ENDED, IN_FLIGHT, LETTERS, MoveKind, NodeState, RunState
from scheduler.store.keys import BUCKET
from scheduler.wire import AttemptId, RunId, shard_of

_RUN = r"run:(?P<run>[0-9a-z]{26})"
_GLOBAL = {
    "meta": "hash",
    "owners": "hash",
    "schedulers": "zset",
    "paused": "hash",
    "executors": "hash",
    "executors:pace": "hash",
    "executors:version": "string",
    "executors:seen": "zset",
    "capabilities": "hash",
    "capabilities:version": "string",
    "capabilities:history": "list",
    "policies": "hash",
    "policies:history": "list",
    "workers": "hash",
}
_SHARD = {
    r"epoch": "string",
    r"commits": "string",
    r"rewound": "hash",
    r"inbox": "stream",
    r"attempts": "hash",
    r"leases": "zset",
    r"timers": "zset",
    r"outbox": "list",
    r"live": "zset",
    r"expected": "hash",
    r"ended": "zset",
    r"approvals": "hash",
    r"gone": "hash",
    r"archived:(?P<archived>[0-9a-z]{26})": "string",
    r"dead": "stream",
    r"dead:counts": "hash",
    rf"{_RUN}": "hash",
    rf"{_RUN}:spec": "hash",
    rf"{_RUN}:spec:(?P<staged>[0-9a-f]{{32}}:[0-9a-f]{{16}})": "hash",
    rf"{_RUN}:nodes:(?P<bucket>\d+)": "hash",
    rf"{_RUN}:values:(?P<values>\d+)": "hash",
    rf"{_RUN}:signals": "hash",
    rf"{_RUN}:log": "stream",
    r"blob:(?P<blob>\d+\.[0-9a-z]{26}\.\d+\.\d+\.\d+)": "string",
}
_PATTERNS = [(re.compile(pattern), type_) for pattern, type_ in _SHARD.items()]
_BROKER = re.compile(r"(?:celeriac\.|_kombu\.|unacked|celery|reply\.|[0-9a-f-]{36}\.reply\.).*", re.DOTALL)
"""Keys of Celery and kombu in the same Redis: queues, bindings, unacknowledged messages, results, replies."""
_SENT = re.compile(r"s\|[^|]+\|\d+\|\d+")
_CLAIMED = re.compile(r"c\|[^|]+\|\d+\|\d+\|\d+\|\d+\|[0-9A-Za-z]+\|.*", re.DOTALL)
_ERROR_FIELDS = {"kind", "type", "message", "origin", "phase", "correlation_id"}
_RECORD = re.compile(
    r"[A-Z]\|[1-9]\d*\|\d+\|\d+(?:\.\d+\.[1-9]\d*)?\|\d+\|[^|]*\|(?:[ibn](?::\d+(?:,\d+)*)?|\d*(?:!.*)?)"
)
_ENDINGS = {
    MoveKind.SUCCEED,
    MoveKind.FAIL,
    MoveKind.SKIP,
    MoveKind.UPSTREAM_FAIL,
    MoveKind.CANCEL,
    MoveKind.DECIDE,
    MoveKind.REFUSE,
    MoveKind.COMPLETE,
}
_END_WORDS = frozenset(kind.word for kind in _ENDINGS)
_NOTES = frozenset({"wait", "late", "rewound", "signal", "ignored", "refused", "escalate"})
_LEFT_OUT = ",,,,rewound,"
"""Begins an entry of a timeline that stands for so many numbers left out."""


def check(client: Redis, namespace: str = "cel", **how: bool) -> None:
    """Fails with every problem found."""
    found = list(problems(client, namespace, **how))
    assert not found, "Redis is not as it must be:\n  " + "\n  ".join(found)


def problems(
    client: Redis, namespace: str = "cel", *, idle: bool = False, runs_of_their_own: bool = True
) -> Iterator[str]:
    """Everything that is wrong with one installation.

    Args:
        client: without decode_responses.
        idle: no event, attempt or timer may be left but those of runs that wait for an executor.
        runs_of_their_own: attempts in flight must belong to runs that are there.
    """
    store = _Store(client, namespace)
    yield from _keys(store)
    if store.unreadable:
        return
    yield from _owners(store)
    yield from _removed(store)
    for shard in store.shards.values():
        yield from _flights(store, shard, runs_of_their_own)
        yield from _indexes(shard)
        yield from _timers(shard)
        yield from _approvals(shard)
        yield from _blobs(shard, runs_of_their_own)
        for run in shard.runs.values():
            for problem in _run(shard, run):
                yield f"run {run.id}: {problem}"
        if idle:
            yield from _idle(shard)


@dataclass
class _Stored:
    """One run as found."""

    id: str
    fields: dict[bytes, bytes] = field(default_factory=dict)
    spec: dict[bytes, bytes] = field(default_factory=dict)
    records: dict[int, str] = field(default_factory=dict)
    values: dict[int, bytes] = field(default_factory=dict)
    signals: dict[str, str] = field(default_factory=dict)
    log: list[list[Any]] = field(default_factory=list)

    @property
    def state(self) -> str:
        return self.fields.get(b"state", b"").decode()

    @cached_property
    def guards(self) -> Guards | None:
        """Its waits among other things; None where it has none, or cannot be loaded, which others tell of."""
        try:
            return self.loaded.guards if self.readable else None
        except (KeyError, ValueError, IndexError, zlib.error):
            return None

    @cached_property
    def readable(self) -> bool:
        """Whether the run and its records have the form that they must have."""
        return bool(self.fields) and all(_RECORD.fullmatch(record) for record in self.records.values())

    @cached_property
    def loaded(self) -> Run:
        """The run as the service would load it."""
        header = json.loads(zlib.decompress(self.fields[b"header"]))
        pages = [page for _, page in sorted((int(at), page) for at, page in self.spec.items())]
        records = ((node, record.encode()) for node, record in self.records.items())
        return Run.load(self.id, header, pages, records, created_at_ms=int(self.fields[b"created_at_ms"]))


@dataclass
class _Shard:
    """One shard as found."""

    number: int
    epoch: int | None = None
    commits: int = 0
    rewound: dict[str, str] = field(default_factory=dict)
    inbox: int = 0
    attempts: dict[str, str] = field(default_factory=dict)
    leases: dict[str, float] = field(default_factory=dict)
    timers: dict[str, float] = field(default_factory=dict)
    outbox: list[list[str]] = field(default_factory=list)
    live: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    runs: dict[str, _Stored] = field(default_factory=dict)
    blobs: dict[str, int] = field(default_factory=dict)
    gone: dict[str, str] = field(default_factory=dict)
    expected: dict[str, str] = field(default_factory=dict)
    approvals: dict[str, str] = field(default_factory=dict)
    archived: dict[str, str] = field(default_factory=dict)

    def run(self, id_: str) -> _Stored:
        found = self.runs.get(id_)
        if found is None:
            found = self.runs[id_] = _Stored(id_)
        return found


class _Store:
    """Every key of one installation, read once."""

    def __init__(self, client: Redis, namespace: str) -> None:
        self.client: Any = client
        self.namespace = namespace
        self.shards: dict[int, _Shard] = {}
        self.globals: dict[str, Any] = {}
        self.unreadable: list[str] = []
        tagged = re.compile(rf"\{{{re.escape(namespace)}:(\d+)\}}:(.*)", re.DOTALL)
        for raw in sorted(client.scan_iter(count=1000)):
            key = raw.decode("utf-8", "backslashreplace")
            if found := tagged.fullmatch(key):
                self._shard_key(key, int(found[1]), found[2])
            elif key.startswith(f"{namespace}:"):
                self._global_key(key, key.removeprefix(f"{namespace}:"))
            elif not _BROKER.fullmatch(key) and not re.match(r"\{?[A-Za-z0-9_.-]{1,32}:", key):
                self.unreadable.append(f"{key}: nobody's key")

    def _typed(self, key: str, wanted: str, *, expires: bool = False) -> bool:
        found = self.client.type(key).decode()
        if found != wanted:
            self.unreadable.append(f"{key}: is a {found}, expected a {wanted}")
            return False
        ttl = self.client.ttl(key)
        if ttl == -1 and expires:
            self.unreadable.append(f"{key}: never expires")
        if ttl >= 0 and not expires and ":blob:" not in key:
            self.unreadable.append(f"{key}: expires in {ttl} s")
        return True

    def _global_key(self, key: str, name: str) -> None:
        if name not in _GLOBAL:
            self.unreadable.append(f"{key}: no such key is known")
        elif self._typed(key, _GLOBAL[name]):
            self.globals[name] = self.client.hgetall(key) if _GLOBAL[name] == "hash" else None

    def _shard_key(self, key: str, number: int, rest: str) -> None:
        shard = self.shards.setdefault(number, _Shard(number))
        for pattern, type_ in _PATTERNS:
            if found := pattern.fullmatch(rest):
                named = found.groupdict()
                if self._typed(key, type_, expires=bool(named.get("staged") or named.get("archived"))):
                    self._read(shard, key, rest, named)
                return
        self.unreadable.append(f"{key}: no such key is known")

    def _read(self, shard: _Shard, key: str, rest: str, named: Mapping[str, str | None]) -> None:
        client = self.client
        readers: dict[str, Callable[[], None]] = {
            "epoch": lambda: setattr(shard, "epoch", int(client.get(key).partition(b".")[0])),
            "commits": lambda: setattr(shard, "commits", int(client.get(key))),
            "rewound": lambda: shard.rewound.update(_texts(client.hgetall(key))),
            "inbox": lambda: setattr(shard, "inbox", client.xlen(key)),
            "attempts": lambda: shard.attempts.update(_texts(client.hgetall(key))),
            "leases": lambda: shard.leases.update(_scores(client, key)),
            "timers": lambda: shard.timers.update(_scores(client, key)),
            "outbox": lambda: shard.outbox.extend(it.decode().split() for it in client.lrange(key, 0, -1)),
            "live": lambda: shard.live.update(_scores(client, key)),
            "ended": lambda: shard.ended.update(_scores(client, key)),
            "gone": lambda: shard.gone.update(_texts(client.hgetall(key))),
            "expected": lambda: shard.expected.update(_texts(client.hgetall(key))),
            "approvals": lambda: shard.approvals.update(_texts(client.hgetall(key))),
            "dead": lambda: None,
            "dead:counts": lambda: None,
        }
        if rest in readers:
            readers[rest]()
            return
        if archived := named.get("archived"):
            shard.archived[archived] = client.get(key).decode()
            return
        if blob := named.get("blob"):
            shard.blobs[blob] = client.ttl(key)
            return
        run = shard.run(str(named["run"]))
        if named.get("staged"):
            if not client.exists(key.rpartition(":spec:")[0]):
                del shard.runs[run.id]  # a submission that did not end: not a run yet
        elif bucket := named.get("bucket"):
            self._in_bucket(key, bucket, found := _texts(client.hgetall(key)))
            run.records |= {int(node): record for node, record in found.items()}
        elif bucket := named.get("values"):
            values = client.hgetall(key)
            self._in_bucket(key, bucket, _texts(values))
            run.values |= {int(node): value for node, value in values.items()}
        elif rest.endswith(":spec"):
            run.spec |= client.hgetall(key)
        elif rest.endswith(":signals"):
            run.signals |= _texts(client.hgetall(key))
        elif rest.endswith(":log"):
            run.log += (move for _, entry in client.xrange(key) for move in json.loads(entry[b"moves"]))
        else:
            run.fields |= client.hgetall(key)

    def _in_bucket(self, key: str, bucket: str, found: Mapping[str, str]) -> None:
        for node in found:
            if not node.isdecimal() or int(node) // BUCKET != int(bucket):
                self.unreadable.append(f"{key}: node {node} does not belong there")


def _texts(found: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): it.decode("utf-8", "backslashreplace") for name, it in found.items()}


def _scores(client: Any, key: str) -> dict[str, float]:
    return {member.decode(): score for member, score in client.zrange(key, 0, -1, withscores=True)}


def _keys(store: _Store) -> Iterator[str]:
    """Every key has a known name, type, lifetime and shard."""
    yield from store.unreadable
    meta = store.globals.get("meta")
    shards = int(meta[b"shards"]) if meta else 1024
    for number, shard in store.shards.items():
        if number >= shards:
            yield f"shard {number}: there are only {shards}"
        for run in shard.runs.values():
            if meta and shard_of(RunId(run.id), shards) != number:
                yield f"run {run.id}: lies in shard {number}, belongs to {shard_of(RunId(run.id), shards)}"
            if not run.fields and run.id not in shard.gone:
                yield f"run {run.id}: parts of it are there, but not the run"


def _owners(store: _Store) -> Iterator[str]:
    """Epochs agree with the table of owners."""
    for raw, line in (store.globals.get("owners") or {}).items():
        number, (epoch, lease_end, _owner) = int(raw), line.decode().split("|", 2)
        if not epoch.isdecimal() or not lease_end.isdecimal():
            yield f"owners: {line!r} is no row"
        elif (shard := store.shards.get(number)) is None or shard.epoch != int(epoch):
            yield f"shard {number}: epoch is {shard and shard.epoch}, the table of owners says {epoch}"


def _removed(store: _Store) -> Iterator[str]:
    """A run is there or removed, and of one that is partly removed no more is left than is on its way out."""
    for shard in store.shards.values():
        for id_, line in shard.gone.items():
            if not re.fullmatch(r"[0-9a-f]{32}\|[1-9]\d*", line):
                yield f"run {id_}: removed in part, and the list says {line!r}"
            left = shard.runs.pop(id_, None)
            if left is not None and (left.fields or left.spec or left.log):
                yield f"run {id_}: removed in part, and its facts are there"
            for blob in [it for it in shard.blobs if it.split(".")[1] == id_]:
                del shard.blobs[blob]
            if id_ in shard.live or id_ in shard.ended:
                yield f"run {id_}: removed, and listed"
        for id_, line in shard.archived.items():
            if not re.fullmatch(r"[0-9a-f]{32}\|(succeeded|failed|cancelled)\|\d+", line):
                yield f"run {id_}: its key is remembered as {line!r}"
            if id_ in shard.runs:
                yield f"run {id_}: is there, and its key is remembered for a removed one"


def _flights(store: _Store, shard: _Shard, runs_of_their_own: bool) -> Iterator[str]:
    """Attempts in flight and leases are the same set, and each is what its node's record says."""
    for id_ in sorted(shard.attempts.keys() ^ shard.leases.keys()):
        yield f"attempt {id_}: {'in flight without a lease' if id_ in shard.attempts else 'a lease and not in flight'}"
    for id_, state in shard.attempts.items():
        if not _SENT.fullmatch(state) and not _CLAIMED.fullmatch(state):
            yield f"attempt {id_}: {state!r} is no state"
        attempt = AttemptId.parse(id_)
        if attempt is None or attempt.shard != shard.number:
            yield f"attempt {id_}: no attempt id of shard {shard.number}"
            continue
        run = shard.runs.get(attempt.run)
        if run is None:
            if runs_of_their_own:
                yield f"attempt {id_}: in flight, and there is no such run"
            continue
        record = run.records.get(attempt.node, "P|1|0")
        letter, epoch, number = record.split("|")[:3]
        if attempt.run not in shard.live:
            yield f"attempt {id_}: in flight, and its run does not live"
        if LETTERS.index(letter) not in IN_FLIGHT or (int(epoch), int(number)) != (attempt.epoch, attempt.attempt):
            yield f"attempt {id_}: in flight, and its node's record is {record}"
    for batch in shard.outbox:
        for id_ in batch:
            attempt = AttemptId.parse(id_)
            if attempt is None or attempt.shard != shard.number or attempt.run not in shard.runs:
                yield f"outbox of shard {shard.number}: {id_} is no attempt of a run there"


def _indexes(shard: _Shard) -> Iterator[str]:
    """Every run is live or ended, as its state says; room is kept for live ones only, and its sum is right."""
    expected = {run: int(room) for run, room in shard.expected.items() if run != "all"}
    if sum(expected.values()) != int(shard.expected.get("all", 0)):
        yield f"shard {shard.number}: the room that is expected adds up to {sum(expected.values())}: {shard.expected}"
    for id_ in expected.keys() - shard.live.keys():
        yield f"run {id_}: room is expected for it, and it is not live"
    for id_ in shard.live.keys() & shard.ended.keys():
        yield f"run {id_}: both live and ended"
    for id_ in (shard.live.keys() | shard.ended.keys()) - shard.runs.keys():
        yield f"run {id_}: listed, and not there"
    for id_, run in shard.runs.items():
        over = run.state in ENDED_RUNS
        if (id_ in shard.live) == over or (id_ in shard.ended) != over:
            yield f"run {id_}: is {run.state}, live {id_ in shard.live}, ended {id_ in shard.ended}"
        if id_ in shard.live and int(run.fields.get(b"created_at_ms", 0)) != shard.live[id_]:
            yield f"run {id_}: listed under another instant than it was created"
        if id_ in shard.ended and shard.ended[id_] < int(run.fields.get(b"ended_at_ms", 1 << 62)):
            yield f"run {id_}: listed as ended before it did"


def _timers(shard: _Shard) -> Iterator[str]:
    """Timers belong to live runs and to what the run waits for; what waits has its timer."""
    wanted = set()
    for id_, run in shard.runs.items():
        for node, record in run.records.items():
            if record[0] == "W":
                wanted |= {f"{id_} {name}" for name in _timers_of_wait(run, node, record)}
            if "!" in record.split("|", 6)[-1]:
                wanted.add(f"{id_} leave:{node}:{record.split('|')[2]}")
        if run.state == RunState.CANCELLING:
            wanted.add(f"{id_} grace")
    for timer in sorted(wanted - shard.timers.keys()):
        yield f"timer {timer}: not set, and something waits for it"
    for timer in shard.timers:
        id_, _, name = timer.partition(" ")
        live = id_ in shard.live
        deadline = name == "deadline" and live and b"deadline_ms" in shard.runs[id_].fields
        limit = live and name.partition(":")[0] in ("start", "total", "escalate") and _is_open(shard.runs[id_], name)
        if timer not in wanted and not deadline and not limit:
            yield f"timer {timer}: set, and nothing waits for it (its run {'lives' if live else 'does not live'})"


def _timers_of_wait(run: _Stored, node: int, record: str) -> set[str]:
    """Timers that a waiting node has, by the graph and its record."""
    if not _RECORD.fullmatch(record):
        return set()
    _, epoch, attempt, _, _, timeline, _ = record.split("|")
    last = timeline.rpartition(";")[2].split(",")
    kind = last[4] if len(last) >= 6 else ""
    if kind not in ("parked", "handed over"):
        return {f"retry:{node}:{attempt}"}
    if run.guards is None:
        return set()
    wait = run.guards.waits[node]
    if wait.within_ms is not None or wait.kind in ("timer", "delay") or (kind == "parked" and wait.kind == "outside"):
        return {f"wait:{node}:{epoch}"}
    return set()


def _is_open(run: _Stored, name: str) -> bool:
    """Whether the timer of a limit or an escalation speaks of a node that has not ended in that epoch."""
    _, node, epoch = name.split(":")[:3]
    record = run.records.get(int(node), "P|1")
    return record[0] in "PRDNW" and record.split("|")[1] == epoch


def _approvals(shard: _Shard) -> Iterator[str]:
    """Listed is what people are asked: approvals that wait, and no others."""
    asked = set()
    for id_, run in shard.runs.items():
        for node, record in run.records.items():
            guards = run.guards if record[0] == "W" else None
            if guards is not None and node in guards.waits and guards.waits[node].kind == "approval":
                asked.add(f"{id_} {node} {record.split('|')[1]}")
    for name in asked ^ shard.approvals.keys():
        yield f"approval {name}: {'waits, and is not' if name in asked else 'does not wait, and is'} listed"


def _blobs(shard: _Shard, runs_of_their_own: bool) -> Iterator[str]:
    """A blob lasts when its output was accepted, and expires otherwise."""
    for id_, ttl in shard.blobs.items():
        attempt = AttemptId.parse(id_)
        assert attempt is not None
        run = shard.runs.get(attempt.run)
        if run is None:
            if runs_of_their_own or ttl == -1:
                yield f"blob {id_}: there is no such run"
            continue
        parts = run.records.get(attempt.node, "P|1|0|0|0||").split("|")
        accepted = parts[0] == "S" and parts[6] == "b" and int(parts[2]) == attempt.attempt
        if accepted != (ttl == -1):
            yield f"blob {id_}: {'accepted' if accepted else 'not accepted'}, and expires in {ttl} s"


def _run(shard: _Shard, run: _Stored) -> Iterator[str]:
    """A run agrees with itself."""
    if not run.readable:
        yield "a record or the run itself cannot be read"
        return
    header = json.loads(zlib.decompress(run.fields[b"header"]))
    if len(run.spec) != header["pages"] or int(run.fields[b"nodes"]) != header["nodes"]:
        yield f"has {len(run.spec)} of {header['pages']} pages, {run.fields[b'nodes']!r} of {header['nodes']} nodes"
        return
    if any(node >= header["nodes"] for node in (*run.records, *run.values)):
        yield "has records or values of nodes that it does not have"
        return
    if run.state not in set(RunState):
        yield f"has the state {run.state!r}"
        return
    yield from _nodes(run)
    yield from _rules(run)
    yield from _progress(run)
    yield from _log(run)
    if run.state == RunState.RUNNING:
        for node, record in run.records.items():
            _letter, epoch, number = record.split("|")[:3]
            id_ = f"{shard.number}.{run.id}.{node}.{epoch}.{number}"
            leaving = "!" in record.split("|", 6)[-1]  # what is being cancelled is claimed by nobody any more
            if record[0] == "D" and id_ not in shard.attempts and not leaving:
                yield f"node {node} is dispatched, and attempt {id_} is not in flight"


def _nodes(run: _Stored) -> Iterator[str]:
    """Each record's timeline, counts and value fit its state."""
    for node, record in run.records.items():
        letter, epoch, number, failures, losses, timeline, last = record.split("|", 6)
        last = last.partition(":")[0]  # behind it stand the edges that are closed
        failures, _, rung = failures.partition(".")  # behind it stands where on its retry ladder the node is
        first = epoch == "1"  # later epochs keep the tries and the value of those before
        worked = letter == "S" and number != "0"  # a choice succeeds without an attempt
        tries = timeline.split(";") if timeline else []
        ends = [entry.split(",")[4] if entry.count(",") >= 5 else "" for entry in tries]
        value = run.values.get(node)
        left_out = sum(int(entry.removeprefix(_LEFT_OUT)) - 1 for entry in tries if entry.startswith(_LEFT_OUT))
        tries = [entry for entry, end in zip(tries, ends, strict=True) if end != "parked"]
        ends = [end for end in ends if end != "parked"]
        open_tries = {"D": 1, "N": 1, "R": 1}.get(letter, 0)
        numbered = len(tries) + left_out
        if numbered != int(number) and len(tries) < KEPT_TRIES - 1:
            yield f"node {node}: {len(tries)} tries on the timeline of {record}"
        well = sum(it == "succeeded" or it.startswith("completed ") for it in ends)
        if not all(ends[: len(tries) - open_tries]) or (first and well != worked):
            yield f"node {node}: tries of {record} do not say how they ended"
        gone = sum(it.startswith("lost") for it in ends)  # a ladder answers losses beyond the cap, as a failure
        if ends.count("failed") + gone * bool(rung) < int(failures) or gone < int(losses):
            yield f"node {node}: {record} counts other failures or losses than its tries"
        by_hand = letter in "CK" and last == "n"
        if (letter == "S") != (last in ("i", "b", "n")) and not by_hand:
            yield f"node {node}: {record} has output {last!r}"
        yield from _value(node, record, by_hand, value)
        if first and letter in "PKU" and value is not None and not tries and not by_hand:
            yield f"node {node}: {record}, and has a value"
    for node in run.values.keys() - run.records.keys():
        yield f"node {node}: a value without a record"


def _value(node: int, record: str, by_hand: bool, value: bytes | None) -> Iterator[str]:
    """An ended node has the value that its record speaks of: an output, an error, or who ended it."""
    letter, last = record[0], record.split("|", 6)[-1].partition(":")[0]
    found = None if value is None else json.loads(value)
    if letter == "S" and ((value is None) if last in "ib" else found is not None):
        yield f"node {node}: {record}, and its value is {value!r}"
    if letter == "F" and (found is None or not found.keys() >= _ERROR_FIELDS):
        yield f"node {node}: failed, and its error is {value!r}"
    if by_hand and (found is None or "message" not in found):
        yield f"node {node}: {record}, and nothing says who ended it"


def _rules(run: _Stored) -> Iterator[str]:
    """No node began before the outcomes it depends on were recorded, and none was left out against its rule."""
    it = run.loaded
    for node, state in enumerate(it.state):
        counts = it.counts(node)
        answer = it.profiles[it.profile[node]].rule.answer(*counts) if counts[0] else Answer.START
        begun = state in _BEGUN or (it.epoch[node] == 1 and it.attempt[node])
        if it.guards is not None and (state in _GUARDED or it.reason.startswith("stopped: ")):
            continue  # a guard, an edge or a stop condition may have ended it, whatever its rule says
        if it.ended.get(node, "").split(",")[4:5] and it.ended[node].split(",")[4].startswith("completed "):
            continue  # a person may complete what is not due
        if state == NodeState.SKIPPED and it.output_kind[node]:
            continue  # or skip it
        if begun and answer is not Answer.START:
            yield f"node {node}: attempt {it.attempt[node]} began, but its rule says {answer.name} of {counts}"
        left_out = state in (NodeState.SKIPPED, NodeState.UPSTREAM_FAILED)
        if left_out and answer not in (Answer.SKIP, Answer.UPSTREAM_FAIL):
            yield f"node {node}: {NodeState(state).word}, but its rule says {answer.name} of {counts}"


_GUARDED = frozenset({NodeState.SKIPPED, NodeState.FAILED})
_BEGUN = IN_FLIGHT | {NodeState.WAITING, NodeState.SUCCEEDED, NodeState.FAILED}


def _progress(run: _Stored) -> Iterator[str]:
    """The run's state and progress are a recount of its records."""
    it = run.loaded
    found = Counter(it.tally_by_state())
    told = Counter(json.loads(run.fields.get(b"progress", b"{}"))) or Counter(pending=it.n)
    for counts in (found, told):  # a node that is ready and was never sent has no record
        counts["open"] = counts.pop("pending", 0) + counts.pop("ready", 0)
    if +found != +told:
        yield f"progress says {dict(+told)}, its records say {dict(+found)}"
    state = RunState(run.state)
    over = state in ENDED_RUNS
    if over != (it.open == 0):
        yield f"is {state}, and {it.open} nodes are open"
    if over != (b"ended_at_ms" in run.fields):
        yield f"is {state}, and ended_at_ms is {run.fields.get(b'ended_at_ms')!r}"
    stopped = run.fields.get(b"reason", b"").startswith(b"stopped: ")
    if state is RunState.SUCCEEDED and it.bad and not stopped:
        yield f"is succeeded, and {it.bad} of its last nodes are not"
    if state is RunState.FAILED and not it.bad and not it.by_state[NodeState.CANCELLED] and not stopped:
        yield "is failed, and none of its last nodes is"
    if state is not RunState.RUNNING and not run.fields.get(b"reason"):
        yield f"is {state} without a reason"


def _log(run: _Stored) -> Iterator[str]:
    """The log tells each node's ending once an epoch, in order, and nothing that the records do not know.

    It may lack the lines of a commit that a crash cut off: they come after the records.
    """
    words: dict[int, list[str]] = {}
    for node, word, *_ in run.log:
        if word not in _NOTES:
            words.setdefault(node, []).append(word)
    known = {kind.word for kind in MoveKind}
    told = [word for word in words.pop(-1, []) if word in set(RunState)]
    ended = [word for word in told if word in ENDED_RUNS]
    epochs = {node: int(record.split("|")[1]) for node, record in run.records.items()}
    opened = max([told.count(RunState.RUNNING) + 1, *epochs.values()])  # a crash may have cut off either
    if len(ended) > opened or (ended and told[-1] in ENDED_RUNS and run.state != told[-1]):
        yield f"is {run.state}, and its log says {told}"
    for node, every in words.items():
        if every.count("reopen") < epochs.get(node, 1) - 1:
            continue
        mine = every[len(every) - every[::-1].index("reopen") :] if "reopen" in every else every
        if unknown := set(mine) - known:
            yield f"node {node}: the log has unknown moves {unknown}"
        ends = [word for word in mine if word in _END_WORDS]
        if len(ends) > 1 or (ends and mine[-1] != ends[0]):
            yield f"node {node}: the log ends it as {ends} and says {mine}"
        if ends and run.records.get(node, "P")[0] not in _LETTER_OF[ends[0]]:
            yield f"node {node}: the log says {ends[0]}, its record {run.records.get(node)}"
        sent, tries = every.count("dispatch"), int(run.records.get(node, "P|1|0").split("|")[2])
        if sent > tries:
            yield f"node {node}: the log sends it {sent} times, its record knows {tries} attempts"


_LETTER_OF = {
    "succeed": "S",
    "fail": "F",
    "skip": "K",
    "upstream_fail": "U",
    "cancel": "C",
    "decide": "S",
    "refuse": "F",
    "resolve": "S",
    "expire": "F",
    "complete": "S",
}


def _idle(shard: _Shard) -> Iterator[str]:
    """Nothing is left to do."""
    for id_ in shard.gone:
        yield f"run {id_}: removed in part"
    if shard.inbox:
        yield f"shard {shard.number}: {shard.inbox} entries wait in the inbox"
    if shard.outbox:
        yield f"shard {shard.number}: {len(shard.outbox)} batches stand in the outbox"
    for id_ in shard.attempts:
        yield f"attempt {id_}: still in flight"
    for timer in shard.timers:
        yield f"timer {timer}: still set"
    for id_, run in shard.runs.items():
        states = run.loaded.state
        if id_ in shard.live and not any(word == "wait" for _, word, *_ in run.log):
            yield f"run {id_}: lives, and waits for nothing"
        if id_ in shard.ended and any(state < FIRST_ENDED for state in states):
            yield f"run {id_}: ended with open nodes"
