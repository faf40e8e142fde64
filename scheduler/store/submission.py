"""How a graph becomes a run: its pages are staged, then one script makes the run of them, or nothing at all.

Until that script has run there is no run; staged pages vanish after an hour. Whether there is room is asked together
with the first page, by the script that stages it, so a graph that is refused has stored nothing. A graph of one page
goes straight into that one script, on a Redis without a limit of memory, and hundreds of such go there together.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from redis import Redis
from redis.exceptions import NoScriptError, RedisError

from ..core.states import RunState
from ..errors import KeyReused, StoreFull, StoreUnsafe
from ..wire import RunId, shard_of
from .connection import refusal
from .direct import Part
from .keys import STAGED_SECONDS, Keys, ShardKeys
from .scripts import STAGE, SUBMIT

PAGES_IN_FLIGHT = 8
TOGETHER, TOGETHER_BYTES = 200, 1024 * 1024
"""Graphs, and bytes of them, that go in one round trip."""
MEMORY_GUARD = 0.85
LIMIT_SECONDS = 1.0
"""For so long a Redis that had no limit of memory is taken to have none."""
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


Item = tuple[RunId, Compiled, Mapping[str, Part]]
"""A run that is to be: its id, its graph, and further fields of it."""
Call = tuple[list[str], list[Part]]
"""Keys and arguments of a script."""


class Submit:
    """The way in.

    Args:
        client: of this process.
        keys: of the installation.
        shards: how many it has.

    Attributes:
        memory_guard: share of Redis's maxmemory above which no run is taken; 0 for none.
    """

    memory_guard = MEMORY_GUARD

    def __init__(self, client: Redis, keys: Keys, shards: int) -> None:
        self.client: Any = client  # redis-py types a reply as str or bytes; without decode_responses it is bytes
        self.keys = keys
        self.shards = shards
        self._limited = True
        """Whether Redis has a maxmemory, as far as it is known."""
        self._known_until = 0.0
        """When to ask again, by time.monotonic(), if it has none."""

    def _shard(self, run: RunId) -> ShardKeys:
        return self.keys.shard(shard_of(run, self.shards))

    def __call__(self, run: RunId, graph: Compiled, facts: Mapping[str, Part]) -> tuple[bool, int]:
        """Make a run of a graph: pages first, in batches, then the run itself in one step. One round trip for a graph
        of one page, three and more for others.

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
        keys = self._shard(run)
        if graph.header["pages"] == 1 and not (self._limited and self.memory_guard):
            made = self._make(run, "", list(graph.pages()), graph, facts)
            if made is not None:
                return made
        if "key" in facts and self._exists(run, graph, facts):  # spares the pages of a repeated submit
            return False, 0
        # a name of its own: of two that submit the same graph at once, each stages its own order of nodes
        staged = keys.staged(run, f"{graph.hash}:{secrets.token_hex(8)}")
        try:
            self._stage(staged, graph)
            made = self._make(run, staged, (), graph, facts)
            assert made is not None  # noqa: S101  a limit is asked for with pages only
            return made
        except RedisError as refused:
            if refusal(refused):  # room is short, and removing needs none
                with contextlib.suppress(RedisError):
                    self.client.unlink(staged)
            raise

    def many(self, items: Sequence[Item], answers: list[bool | None]) -> None:
        """Make runs of many graphs: of those that have one page, hundreds in one round trip, on a Redis without a limit
        of memory. The others are left to be made one by one.

        Args:
            answers: for each item None; True is put there once its run has been made, False when it was there before.

        Raises:
            redis.exceptions.RedisError, StoreFull: no answer, or one that says no. To which items is not told, and
                those after them were not sent.
        """
        waiting: list[tuple[int, Call]] = []
        size = 0
        for number, (run, graph, facts) in enumerate(items):
            if graph.header["pages"] != 1:
                continue
            if self.memory_guard > 0 and (self._limited or time.monotonic() >= self._known_until):
                with contextlib.suppress(KeyReused):
                    answers[number] = self(run, graph, facts)[0]  # this one asks for the limit on its way
                if self._limited:
                    return
                continue
            call = self._call(run, "", list(graph.pages()), graph, facts, asks=False)
            waiting.append((number, call))
            size += sum(len(part) for part in call[1] if isinstance(part, bytes))
            if len(waiting) >= TOGETHER or size >= TOGETHER_BYTES:
                self._send(waiting, answers)
                waiting, size = [], 0
        self._send(waiting, answers)

    def _send(self, waiting: Sequence[tuple[int, Call]], answers: list[bool | None]) -> None:
        """One round trip."""
        if not waiting:
            return
        for (number, _), answer in zip(waiting, SUBMIT.many(self.client, [call for _, call in waiting]), strict=True):
            answers[number] = True if answer[0] == b"accepted" else None

    def _stage(self, staged: str, graph: Compiled) -> None:
        """Put the pages of a graph aside. Asks for room with the first."""
        guard, count = self.memory_guard, 0
        pages = graph.pages()
        while True:
            batch = [page for _, page in zip(range(PAGES_IN_FLIGHT), pages, strict=False)]
            if not batch:
                return
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
                self._known_until = time.monotonic() + LIMIT_SECONDS
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
        self, run: RunId, staged: str, pages: Sequence[bytes], graph: Compiled, facts: Mapping[str, Part]
    ) -> tuple[bool, int] | None:
        """The run, of pages that have been staged or of these; None when Redis has a limit of memory now, and there
        may be no room for it.
        """
        asks = bool(pages) and self.memory_guard > 0 and time.monotonic() >= self._known_until
        answer = SUBMIT(self.client, *self._call(run, staged, pages, graph, facts, asks=asks))
        word = answer[0]
        if asks and word in (b"accepted", b"limited"):
            self._limited, self._known_until = word == b"limited", time.monotonic() + LIMIT_SECONDS
        if word == b"limited":
            return None
        if word == b"accepted":
            return True, int(answer[1])
        if word in (b"exists", b"archived"):
            if staged:
                self.client.unlink(staged)
            _same_graph(run, answer[1], graph, facts)
            return False, 0
        raise StoreUnsafe(
            f"of {graph.header['pages']} pages of the graph the store kept {answer[1]}",
            "it lost writes that it had acknowledged; check maxmemory-policy (noeviction) and submit again",
        )

    def _call(
        self,
        run: RunId,
        staged: str,
        pages: Sequence[bytes],
        graph: Compiled,
        facts: Mapping[str, Part],
        *,
        asks: bool,
    ) -> Call:
        """What submit.lua is called with; see there.

        Args:
            asks: for a limit of memory.
        """
        keys, header = self._shard(run), graph.header
        fields: dict[str, Part] = {
            "name": header["name"],
            "hash": graph.hash,
            "nodes": header["nodes"],
            "header": zlib.compress(json.dumps(header, ensure_ascii=False).encode(), 1),
            "state": RunState.RUNNING.value,
            **facts,
        }
        if "version" in header:
            fields["graph_version"] = header["version"]
        named = [keys.run(run), staged or keys.spec(run), keys.spec(run), keys.live, keys.inbox, keys.archived(run)]
        along = [part for pair in enumerate(pages) for part in pair]
        given = [run, header["pages"], header["nodes"] * NODE_BYTES, int(asks), len(along), *along]
        given += (part for pair in fields.items() for part in pair)
        return [*named, keys.gone, keys.expected], given

    def _exists(self, run: RunId, graph: Compiled, facts: Mapping[str, Part]) -> bool:
        keys = self._shard(run)
        with self.client.pipeline(transaction=False) as pipe:
            pipe.hget(keys.run(run), "hash")
            pipe.get(keys.archived(run))
            found, remembered = pipe.execute()
        if found is None and remembered is not None:
            found = remembered.partition(b"|")[0]
        if found is not None:
            _same_graph(run, found, graph, facts)
        return found is not None


def _same_graph(run: RunId, found: bytes, graph: Compiled, facts: Mapping[str, Part]) -> None:
    """Refuses a key that belongs to a run of another graph."""
    if found.decode() != graph.hash:
        raise KeyReused(str(facts.get("key", run)), run=run, graph_hash=found.decode(), other_hash=graph.hash)
