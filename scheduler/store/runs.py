"""Runs in the store: submit, ask for cancellation, load, list, read. One typed method per question.

For the client and the service. Reads never change anything; a run's state changes by commits alone.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from redis import Redis
from redis.exceptions import NoPermissionError, NoScriptError, RedisError

from ..core.run import Run
from ..core.states import NodeState, RunState
from ..errors import KeyReused, RunNotFound, StoreFull, StoreTooNew, StoreUnsafe
from ..wire import RunId, is_run_id, shard_of
from .connection import refusal
from .keys import BUCKET, LAYOUT, STAGED_SECONDS, Keys
from .scripts import STAGE, SUBMIT, Part

PAGES_IN_FLIGHT = 8
LOADED_AT_ONCE = 32
MEMORY_GUARD = 0.85
NODE_BYTES = 500
"""What a node may come to take: its record, its share of the log and of an inbox, and a small output."""


class Compiled(Protocol):
    """What submit needs of a compiled graph (scheduler/compile.py)."""

    @property
    def header(self) -> Mapping[str, Any]:
        """Name, counts and profiles."""
        ...

    @property
    def hash(self) -> str:
        """Of the canonical form."""
        ...

    def pages(self) -> Iterator[bytes]:
        """Nodes, zlib of JSON, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Summary:
    """A run as a list shows it. Instants in ms since 1970; None when it did not come to that."""

    id: RunId
    name: str
    state: RunState
    reason: str
    nodes: int
    created_at_ms: int
    ended_at_ms: int | None
    deadline_at_ms: int | None
    progress: dict[str, int]
    labels: dict[str, str]
    correlation_id: str | None
    key: str | None
    hash: str


class Runs:
    """The runs of one installation.

    Args:
        client: of this process.
        namespace: which installation.
        shards: as recorded in the store; see `connect_runs`.

    Attributes:
        memory_guard: share of Redis's maxmemory above which no run is taken; 0 for none.
    """

    memory_guard = MEMORY_GUARD

    def __init__(self, client: Redis, namespace: str, shards: int) -> None:
        self.client: Any = client  # redis-py types a reply as str or bytes; without decode_responses it is bytes
        self.keys = Keys(namespace)
        self.namespace = namespace
        self.shards = shards
        self._limited = True
        """Whether Redis has a maxmemory, as far as it is known."""

    def shard(self, run: RunId) -> int:
        """Where a run lives."""
        return shard_of(run, self.shards)

    def submit(self, run: RunId, graph: Compiled, facts: Mapping[str, Part]) -> tuple[bool, int]:
        """Make a run of a graph: pages first, in batches, then the run itself in one step.

        Args:
            run: its id.
            graph: compiled and checked.
            facts: further fields of the run (labels, correlation_id, key, deadline_ms, …).

        Returns:
            (True, created at, ms) or, when the run exists or existed with the same graph already, (False, 0).

        Raises:
            KeyReused: the run exists, with another graph.
            StoreFull: Redis has no room for another run. Nothing is stored.
        """
        keys = self.keys.shard(self.shard(run))
        if "key" in facts and self._exists(run, graph, facts):  # spares the pages of a repeated submit
            return False, 0
        # a name of its own: of two that submit the same graph at once, each stages its own order of nodes
        staged = keys.staged(run, f"{graph.hash}:{secrets.token_hex(8)}")
        try:
            return self._make(run, staged, self._stage(staged, graph), graph, facts)
        except RedisError as refused:
            if refusal(refused):  # room is short, and removing needs none
                with contextlib.suppress(RedisError):
                    self.client.unlink(staged)
            raise

    def _stage(self, staged: str, graph: Compiled) -> int:
        """Put the pages of a graph aside; how many they are. Asks for room with the first."""
        guard, count = self.memory_guard, 0
        pages = graph.pages()
        while True:
            batch = [page for _, page in zip(range(PAGES_IN_FLIGHT), pages, strict=False)]
            if not batch:
                return count
            parts = [part for at, page in enumerate(batch, count) for part in (at, page)]
            arguments = [guard, STAGED_SECONDS, *parts]
            expected = 0
            if guard and self._limited:
                answer, expected = self._stage_and_ask([staged], arguments)
                expected += graph.header["nodes"] * NODE_BYTES
            else:
                answer = STAGE(self.client, [staged], arguments)
            used, limit, most = map(int, answer[1:])
            if answer[0] == b"full" or (limit and used + expected > limit):
                self.client.unlink(staged)
                raise StoreFull(used_bytes=used, expected_bytes=expected, limit_bytes=limit, max_bytes=most)
            if guard:
                self._limited = bool(most)
            guard, count = 0, count + len(batch)

    def _stage_and_ask(self, keys: Sequence[str], arguments: Sequence[Part]) -> tuple[list[Any], int]:
        """Stage pages and ask all shards what their live runs may still come to take; one round trip."""
        for _ in range(2):
            with self.client.pipeline(transaction=False) as pipe:
                pipe.execute_command("EVALSHA", STAGE.sha, len(keys), *keys, *arguments)
                for shard in range(self.shards):
                    pipe.hget(self.keys.shard(shard).expected, "all")
                answer, *sums = pipe.execute(raise_on_error=False)
            if not isinstance(answer, NoScriptError):
                break
            self.client.execute_command("SCRIPT", "LOAD", STAGE.text)
        for it in (answer, *sums):
            if isinstance(it, Exception):
                raise it
        return answer, sum(int(it or 0) for it in sums)

    def _make(
        self, run: RunId, staged: str, count: int, graph: Compiled, facts: Mapping[str, Part]
    ) -> tuple[bool, int]:
        """The run, of pages that have been staged."""
        keys = self.keys.shard(self.shard(run))
        header = zlib.compress(json.dumps(graph.header, ensure_ascii=False).encode(), 1)
        fields: dict[str, Part] = {
            "name": graph.header["name"],
            "hash": graph.hash,
            "nodes": graph.header["nodes"],
            "header": header,
            "state": RunState.RUNNING.value,
            **facts,
        }
        named = [keys.run(run), staged, keys.spec(run), keys.live, keys.inbox, keys.archived(run), keys.gone]
        answer = SUBMIT(
            self.client,
            [*named, keys.expected],
            [run, count, graph.header["nodes"] * NODE_BYTES, *(part for pair in fields.items() for part in pair)],
        )
        word = answer[0]
        if word == b"accepted":
            return True, int(answer[1])
        if word in (b"exists", b"archived"):
            self.client.unlink(staged)
            _same_graph(run, answer[1], graph, facts)
            return False, 0
        raise StoreUnsafe(
            f"of {count} pages of the graph the store kept {answer[1]}",
            "it lost writes that it had acknowledged; check maxmemory-policy (noeviction) and submit again",
        )

    def _exists(self, run: RunId, graph: Compiled, facts: Mapping[str, Part]) -> bool:
        keys = self.keys.shard(self.shard(run))
        with self.client.pipeline(transaction=False) as pipe:
            pipe.hget(keys.run(run), "hash")
            pipe.get(keys.archived(run))
            found, remembered = pipe.execute()
        if found is None and remembered is not None:
            found = remembered.partition(b"|")[0]
        if found is not None:
            _same_graph(run, found, graph, facts)
        return found is not None

    def remembered(self, run: RunId) -> bool:
        """Whether the run ended, was removed, and its idempotency key still stands for it."""
        return bool(self.client.exists(self.keys.shard(self.shard(run)).archived(run)))

    def archive_place(self) -> str | None:
        """Where schedulers say that they archive ended runs, without a password; for messages."""
        found = self.client.hget(self.keys.meta, "archive")
        return found.decode("utf-8", "replace") if found else None

    def archive_problem(self) -> str:
        """What a scheduler's archive said when it last failed, until it works again; "" when it works."""
        found = self.client.hget(self.keys.meta, "archive_problem")
        return found.decode("utf-8", "replace") if found else ""

    def cancel(self, run: RunId, reason: str) -> None:
        """Ask for a run to stop; its scheduler answers through the run's log."""
        self._ask("cancel", run, reason)

    def retry(self, run: RunId, reason: str) -> None:
        """Ask for what failed in an ended run, and what follows from it, to run again."""
        self._ask("retry", run, reason)

    def archive(self, run: RunId) -> None:
        """Ask for an ended run to be archived and removed now, before its time."""
        self._ask("archive", run, "")

    def _ask(self, what: str, run: RunId, reason: str) -> None:
        keys = self.keys.shard(self.shard(run))
        body = json.dumps({"run": run, "reason": reason}, ensure_ascii=False).encode("utf-8", "replace")
        self.client.execute_command("XADD", keys.inbox, "*", what, body)

    def summary(self, run: str) -> Summary:
        """One run.

        Raises:
            RunNotFound: there is none of that id.
        """
        [found] = self.summaries([run])
        if found is None:
            raise RunNotFound(run)
        return found

    def summaries(self, runs: Sequence[str]) -> list[Summary | None]:
        """Many runs, one round trip; None where there is no run of that id."""
        with self.client.pipeline(transaction=False) as pipe:
            for run in runs:
                id_ = RunId(run if is_run_id(run) else "0" * 26)
                pipe.hgetall(self.keys.shard(self.shard(id_)).run(id_))
            found = zip(runs, pipe.execute(), strict=True)
        return [_summary(RunId(run), fields) if fields else None for run, fields in found]

    def newest(self, *, limit: int = 100, live: bool = True, ended: bool = True) -> list[Summary]:
        """The newest runs of all shards, newest first. O(shards + limit)."""
        with self.client.pipeline(transaction=False) as pipe:
            for shard in range(self.shards):
                keys = self.keys.shard(shard)
                for wanted, key in ((live, keys.live), (ended, keys.ended)):
                    if wanted:
                        pipe.zrevrange(key, 0, limit - 1)
            ids = [id_.decode() for found in pipe.execute() for id_ in found]
        found_runs = [it for it in self.summaries(ids) if it is not None]
        return sorted(found_runs, key=lambda it: it.created_at_ms, reverse=True)[:limit]

    def load(self, run: RunId) -> Run:
        """A run with all its nodes, from the store alone. O(nodes + edges); two round trips.

        Raises:
            RunNotFound: there is none of that id.
        """
        for found in self.load_many([run]):
            return found
        raise RunNotFound(run)

    def load_many(
        self, runs: Sequence[RunId], broken: Callable[[RunId, StoreUnsafe], None] | None = None
    ) -> Iterator[Run]:
        """Runs with all their nodes, LOADED_AT_ONCE by two round trips; those that are not there are left out.

        Args:
            broken: told of runs that are there and cannot be read, which are left out then.

        Raises:
            StoreUnsafe: a run cannot be read, and nobody wants to be told.
        """
        return (run for run in self.load_in_steps(runs, broken) if run is not None)

    def load_in_steps(
        self, runs: Sequence[RunId], broken: Callable[[RunId, StoreUnsafe], None] | None = None
    ) -> Iterator[Run | None]:
        """The same in steps of some milliseconds each, for who has other things to do: a run, or None for not yet."""
        for at in range(0, len(runs), LOADED_AT_ONCE):
            yield from self._load(runs[at : at + LOADED_AT_ONCE], broken)

    def _load(self, runs: Sequence[RunId], broken: Callable[[RunId, StoreUnsafe], None] | None) -> Iterator[Run | None]:
        with self.client.pipeline(transaction=False) as pipe:
            for run in runs:
                keys = self.keys.shard(self.shard(run))
                pipe.hgetall(keys.run(run))
                pipe.hgetall(keys.spec(run))
            answers = pipe.execute()
        found = [it for it in zip(runs, answers[::2], answers[1::2], strict=True) if it[1]]
        with self.client.pipeline(transaction=False) as pipe:
            for run, fields, _ in found:
                keys = self.keys.shard(self.shard(run))
                for bucket in range(-(-int(fields[b"nodes"]) // BUCKET)):
                    pipe.hgetall(keys.nodes(run, bucket))
            buckets = iter(pipe.execute())
        for run, fields, spec in found:
            mine = [next(buckets) for _ in range(-(-int(fields[b"nodes"]) // BUCKET))]
            try:
                yield from _loaded(run, fields, spec, mine)
            except Exception as damage:
                what = f"run {run} cannot be read: {type(damage).__name__}: {damage}"
                unsafe = StoreUnsafe(what, "its keys were changed by another hand, or Redis lost some of them")
                if broken is None:
                    raise unsafe from damage
                broken(run, unsafe)

    def claimed(self, run: Run) -> dict[int, tuple[int, str]]:
        """What runs at this moment: node -> (claimed at, ms; worker). The claims are the workers' own record.

        A user of Redis that may not read them (config/users.acl: client) sees nothing as running, only as dispatched.
        """
        flying = [node for node, state in enumerate(run.state) if state in (NodeState.DISPATCHED, NodeState.RUNNING)]
        if not flying:
            return {}
        shard = self.shard(RunId(run.id))
        ids = [run.attempt_id(shard, node) for node in flying]
        try:
            states = self.client.hmget(self.keys.shard(shard).attempts, ids)
        except NoPermissionError:
            return {}
        found = {}
        for node, state in zip(flying, states, strict=True):
            if state is not None and state[:1] == b"c":
                parts = state.decode().split("|", 7)
                found[node] = int(parts[4]), parts[7]
        return found

    def values(self, run: RunId, nodes: Iterable[int]) -> dict[int, bytes]:
        """Raw JSON of outputs and errors: node -> value; nodes without one are left out."""
        keys = self.keys.shard(self.shard(run))
        buckets: dict[int, list[int]] = {}
        for node in nodes:
            buckets.setdefault(node // BUCKET, []).append(node)
        with self.client.pipeline(transaction=False) as pipe:
            for bucket, members in buckets.items():
                pipe.hmget(keys.values(run, bucket), members)
            answers = pipe.execute()
        return {
            node: value
            for members, found in zip(buckets.values(), answers, strict=True)
            for node, value in zip(members, found, strict=True)
            if value is not None
        }

    def blob(self, key: str) -> bytes | None:
        """A large output, or None when it is gone."""
        found: bytes | None = self.client.get(key)
        return found

    def log(
        self, run: RunId, after: str = "0", *, count: int = 1000, block_ms: int | None = None
    ) -> list[tuple[str, list[list[Any]]]]:
        """Entries of a run's log after an entry's id: (id, moves). Waits up to `block_ms` for one, without polling.

        A move is [node, move, attempt, cause, why]; the end of the run is [-1, state, 0, -1, why].
        """
        key = self.keys.shard(self.shard(run)).log(run)
        found = self.client.xread({key: after}, count=count, block=block_ms)
        if not found:
            return []
        [(_, entries)] = found.items() if isinstance(found, dict) else found
        return [(id_.decode(), json.loads(fields[b"moves"])) for id_, fields in entries]

    def contracts(self) -> dict[str, dict[str, Any]]:
        """Executors that workers have published: name -> contract."""
        return {name.decode(): json.loads(it) for name, it in self.client.hgetall(self.keys.executors).items()}

    def contracts_version(self) -> int:
        """Goes up whenever a worker publishes contracts."""
        return int(self.client.get(self.keys.executors_version) or 0)

    def workers(self) -> dict[str, dict[str, Any]]:
        """Workers that have announced themselves: name -> description with seen_at_ms."""
        return {name.decode(): json.loads(it) for name, it in self.client.hgetall(self.keys.workers).items()}

    def now_ms(self) -> int:
        """Redis's time."""
        seconds, micros = self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000


def _loaded(
    run: RunId, fields: Mapping[bytes, bytes], spec: Mapping[bytes, bytes], buckets: Iterable[Mapping[bytes, bytes]]
) -> Iterator[Run | None]:
    """A run from its keys as they were read, in steps: None for not yet, the run at last."""
    pages = [page for _, page in sorted((int(number), page) for number, page in spec.items())]
    summary = _summary(run, fields)
    for loaded in Run.load_in_steps(
        run,
        json.loads(zlib.decompress(fields[b"header"])),
        pages,
        ((int(node), record) for bucket in buckets for node, record in bucket.items()),
        created_at_ms=summary.created_at_ms,
    ):
        if loaded is None:
            yield None
            continue
        if loaded.n != summary.nodes:
            raise ValueError(f"it has {loaded.n} of {summary.nodes} nodes")
        loaded.run_state, loaded.reason = summary.state, summary.reason
        loaded.deadline_at_ms, loaded.correlation_id = summary.deadline_at_ms, summary.correlation_id
        loaded.floor = int(fields.get(b"attempts_above", 0))
        loaded.renumbered_at_ms = int(fields.get(b"renumbered_at_ms", 0))
        loaded.keyed = summary.key is not None
        yield loaded


def connect_runs(client: Redis, namespace: str, shards: int) -> Runs:
    """The runs of an installation, with the number of shards that its store was first used with.

    Args:
        shards: taken when the store is new; otherwise what is recorded there wins.

    Raises:
        StoreTooNew: the store was laid out by a version that this one does not understand.
    """
    meta = Keys(namespace).meta
    found: Any = client.hmget(meta, ["shards", "layout"])
    if found[0] is None:  # asked first: a reader must not need to write, for a full Redis would not let it
        with client.pipeline(transaction=False) as pipe:
            pipe.hsetnx(meta, "shards", str(shards))
            pipe.hsetnx(meta, "layout", str(LAYOUT))
            pipe.hmget(meta, ["shards", "layout"])
            found = pipe.execute()[-1]
    recorded, layout = found
    if int(layout or 1) > LAYOUT:
        raise StoreTooNew(namespace, int(layout), LAYOUT)
    return Runs(client, namespace, int(recorded or shards))


PROGRESS = ("succeeded", "failed", "skipped", "upstream_failed", "cancelled")


def _same_graph(run: RunId, found: bytes, graph: Compiled, facts: Mapping[str, Part]) -> None:
    """Refuses a key that belongs to a run of another graph."""
    if found.decode() != graph.hash:
        raise KeyReused(str(facts.get("key", run)), run=run, graph_hash=found.decode(), other_hash=graph.hash)


def _summary(run: RunId, fields: Mapping[bytes, bytes]) -> Summary:
    def text(name: bytes) -> str | None:
        return fields[name].decode() if name in fields else None

    def number(name: bytes) -> int | None:
        return int(fields[name]) if name in fields else None

    progress = json.loads(fields.get(b"progress", b"{}"))
    created = int(fields[b"created_at_ms"])
    deadline = number(b"deadline_ms")
    return Summary(
        run,
        fields[b"name"].decode(),
        RunState(fields[b"state"].decode()),
        text(b"reason") or "",
        int(fields[b"nodes"]),
        created,
        number(b"ended_at_ms"),
        None if deadline is None else created + deadline,
        progress,
        json.loads(fields.get(b"labels", b"{}")),
        text(b"correlation_id"),
        text(b"key"),
        fields[b"hash"].decode(),
    )
