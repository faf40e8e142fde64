"""Runs in the store: submit, ask for cancellation, load, list, read. One typed method per question.

For the client and the service. Reads never change anything; a run's state changes by commits alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError

from ..core.run import Run
from ..core.states import NodeState
from ..errors import RunNotFound, StoreTooNew
from ..wire import VERSION, RunId, is_run_id, shard_of
from .direct import exchange
from .keys import BUCKET, LAYOUT, Keys, ShardKeys
from .loading import Broken, First, load_in_steps, read_first
from .submission import Submit
from .summaries import Summary, summary_of

_OF_RUN = b"[-1,"
"""How a line of the log begins that concerns the run as a whole, as Batch writes it."""
Told = tuple[str, list[list[Any]], dict[int, dict[str, Any]]]
"""An entry of a run's log; see Runs.history."""


class Runs:
    """The runs of one installation.

    Args:
        client: of this process.
        namespace: which installation.
        shards: as recorded in the store; see `connect_runs`.

    Attributes:
        submit: makes a run of a graph.
    """

    def __init__(self, client: Redis, namespace: str, shards: int) -> None:
        self.client: Any = client  # redis-py types a reply as str or bytes; without decode_responses it is bytes
        self.keys = Keys(namespace)
        self.namespace = namespace
        self.shards = shards
        self.submit = Submit(client, self.keys, shards)

    def shard(self, run: RunId) -> int:
        """Where a run lives."""
        return shard_of(run, self.shards)

    def keys_of(self, run: RunId) -> ShardKeys:
        """The keys of a run's shard."""
        return self.keys.shard(self.shard(run))

    def known(self, run: RunId) -> bool:
        """Whether the run is here, or was, and its idempotency key still stands for it."""
        keys = self.keys_of(run)
        return bool(self.client.exists(keys.run(run), keys.archived(run)))

    def remembered(self, run: RunId) -> bool:
        """Whether the run ended, was removed, and its idempotency key still stands for it."""
        return bool(self.client.exists(self.keys_of(run).archived(run)))

    def archive_place(self) -> str | None:
        """Where schedulers say that they archive ended runs, without a password; for messages."""
        found = self.client.hget(self.keys.meta, "archive")
        return found.decode("utf-8", "replace") if found else None

    def archive_problem(self) -> str:
        """What a scheduler's archive said when it last failed, until it works again; "" when it works."""
        found = self.client.hget(self.keys.meta, "archive_problem")
        return found.decode("utf-8", "replace") if found else ""

    def cancel(self, run: RunId, reason: str, by: str = "") -> None:
        """Ask for a run to stop; its scheduler answers through the run's log."""
        self.ask("cancel", run, reason, by)

    def pause(self, run: RunId, reason: str, by: str) -> None:
        """Ask for nothing more of a run to be sent, until it is resumed."""
        self.ask("pause", run, reason, by)

    def resume(self, run: RunId, reason: str, by: str) -> None:
        """Ask for a paused run to go on."""
        self.ask("resume", run, reason, by)

    def retry(self, run: RunId, reason: str, by: str = "") -> None:
        """Ask for what failed in an ended run, and what follows from it, to run again."""
        self.ask("retry", run, reason, by)

    def archive(self, run: RunId) -> None:
        """Ask for an ended run to be archived and removed now, before its time."""
        self.ask("archive", run, "")

    def ask(self, what: str, run: RunId, reason: str, by: str = "", **more: Any) -> None:
        """Ask for something of a run (service/requests.py has all that can be asked).

        Args:
            more: further fields of the request, JSON values.
        """
        self.tell(what, run, {"run": run, "reason": reason, **({"by": by} if by else {}), **more})

    def tell(self, kind: str, run: RunId, record: Mapping[str, Any]) -> str:
        """A record into the inbox of a run's shard; see service/replies.py for those that come from outside.

        Returns:
            The id of the entry.
        """
        body = json.dumps({"v": VERSION, **record}, ensure_ascii=False).encode("utf-8", "replace")
        found: bytes = self.client.execute_command("XADD", self.keys_of(run).inbox, "*", kind, body)
        return found.decode()

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
                pipe.hgetall(self.keys_of(id_).run(id_))
            found = zip(runs, pipe.execute(), strict=True)
        return [summary_of(RunId(run), fields) if fields else None for run, fields in found]

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

    def load_many(self, runs: Sequence[RunId], broken: Broken | None = None) -> Iterator[Run]:
        """Runs with all their nodes; see `load_in_steps`."""
        return (run for run in self.load_in_steps(runs, broken) if run is not None)

    def load_in_steps(
        self, runs: Sequence[RunId], broken: Broken | None = None, known: Mapping[RunId, First] | None = None
    ) -> Iterator[Run | None]:
        """The same for who has other things to do meanwhile: a run, or None for not yet.

        Args:
            known: what `read_first` has read of them.
        """
        return load_in_steps(self.client, self.keys_of, runs, broken, known)

    def read_first(self, runs: Sequence[RunId]) -> dict[RunId, First]:
        """What every run has, for `load_in_steps`: one round trip for all of them, whatever their shards."""
        return read_first(self.client, self.keys_of, runs)

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
        return self._fields(partial(self.keys_of(run).values, run), nodes)

    def records(self, run: RunId, nodes: Iterable[int]) -> dict[int, bytes]:
        """Records of nodes (core/run.py draws them): node -> record; nodes without one are left out."""
        return self._fields(partial(self.keys_of(run).nodes, run), nodes)

    def _fields(self, key_of: Callable[[int], str], nodes: Iterable[int]) -> dict[int, bytes]:
        """What hashes of BUCKET nodes each hold of some nodes; one round trip."""
        buckets: dict[int, list[int]] = {}
        for node in nodes:
            buckets.setdefault(node // BUCKET, []).append(node)
        with self.client.pipeline(transaction=False) as pipe:
            for bucket, members in buckets.items():
                pipe.hmget(key_of(bucket), members)
            answers = pipe.execute()
        return {
            node: value
            for members, found in zip(buckets.values(), answers, strict=True)
            for node, value in zip(members, found, strict=True)
            if value is not None
        }

    def blob_bytes(self, key: str) -> int:
        """How large a large output is; 0 when it is gone."""
        return int(self.client.strlen(key))

    def blob(self, key: str) -> bytes | None:
        """A large output, or None when it is gone."""
        found: bytes | None = self.client.get(key)
        return found

    def log(
        self, run: RunId, after: str = "0", *, count: int = 1000, block_ms: int | None = None, nodes: bool = True
    ) -> list[tuple[str, list[list[Any]]]]:
        """Entries of a run's log after an entry's id: (id, moves). Waits up to `block_ms` for one, without polling.

        A move is [node, move, attempt, cause, why]; the end of the run is [-1, state, 0, -1, why].

        Args:
            nodes: False leaves entries unread that say nothing of the run as a whole: they have no moves then.
        """
        key = self.keys_of(run).log(run)
        found = self.client.xread({key: after}, count=count, block=block_ms)
        if not found:
            return []
        [(_, entries)] = found.items() if isinstance(found, dict) else found
        told = ((id_.decode(), fields[b"moves"]) for id_, fields in entries)
        return [(id_, json.loads(moves) if nodes or _OF_RUN in moves else []) for id_, moves in told]

    def history(self, run: RunId) -> list[Told]:
        """The whole log of a run: (id, moves, number of a move -> what is told beside it). A call per 1,000."""
        key, after, found = self.keys_of(run).log(run), "0", []
        while answer := self.client.xread({key: after}, count=1000):
            [(_, entries)] = answer.items() if isinstance(answer, dict) else answer
            for id_, fields in entries:
                if b"moves" in fields:
                    told = {int(number): it for number, it in json.loads(fields.get(b"told", b"[]"))}
                    found.append((id_.decode(), json.loads(fields[b"moves"]), told))
            after = entries[-1][0].decode()
        return found

    def contracts(self) -> dict[str, dict[str, Any]]:
        """Executors that workers have published: name -> contract."""
        return {name.decode(): json.loads(it) for name, it in self.client.hgetall(self.keys.executors).items()}

    def contracts_version(self) -> int:
        """Goes up whenever a worker publishes contracts."""
        [version] = exchange(self.client, [("GET", self.keys.executors_version)])
        return int(version or 0)

    def paces(self) -> dict[str, int]:
        """How long attempts of executors run, as schedulers have measured it: name -> us."""
        found = self.client.hgetall(self.keys.executors_pace)
        return {name.decode(): int(us) for name, us in found.items() if us.isdigit()}

    def tell_paces(self, paces: Mapping[str, int]) -> None:
        """Keep what was measured, for schedulers that start and for people."""
        self.client.hset(self.keys.executors_pace, mapping=dict(paces))

    def workers(self) -> dict[str, dict[str, Any]]:
        """Workers that have announced themselves: name -> description with seen_at_ms."""
        return {name.decode(): json.loads(it) for name, it in self.client.hgetall(self.keys.workers).items()}

    def now_ms(self) -> int:
        """Redis's time."""
        seconds, micros = self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000


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
