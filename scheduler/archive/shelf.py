"""One archived run, read like the store: whoever reads runs reads this one too, by the same code, to the same result.

A `Shelf` is the store's `Runs` on a client that has the archived records in memory and answers the few commands with
which runs are read. It cannot be written to. What is not of the run (executors, workers, Redis's time) comes from the
live store, where there is one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from ..store.keys import BUCKET
from ..store.runs import Runs
from .lines import Archived

Entry = tuple[bytes, dict[bytes, bytes]]


class Shelf(Runs):
    """The store of one archived run.

    Args:
        it: the run.
        blob: gives a large output by its key.
        live: the installation it comes from; None reads without one.
    """

    def __init__(self, it: Archived, blob: Callable[[str], bytes | None], live: Runs | None = None) -> None:
        memory: Any = _Memory(blob)
        super().__init__(memory, it.namespace, 1 if live is None else live.shards)
        self.run = it.run
        self.stored_records = it.records
        """Node -> its record, as stored."""
        self._live = live
        keys = self.keys.shard(self.shard(it.run))
        memory.hashes[keys.run(it.run)] = it.fields
        memory.hashes[keys.spec(it.run)] = {str(number).encode(): page for number, page in it.pages.items()}
        memory.hashes[keys.signals(it.run)] = {id_.encode(): raw for id_, raw in it.signals.items()}
        memory.streams[keys.log(it.run)] = it.log
        for named, found in ((keys.nodes, it.records), (keys.values, it.values)):
            for node, raw in found.items():
                memory.hashes.setdefault(named(it.run, node // BUCKET), {})[str(node).encode()] = raw

    def contracts(self) -> dict[str, dict[str, Any]]:
        """As the live store has them."""
        return {} if self._live is None else self._live.contracts()

    def workers(self) -> dict[str, dict[str, Any]]:
        """As the live store has them."""
        return {} if self._live is None else self._live.workers()

    def now_ms(self) -> int:
        """The live store's time, else this machine's."""
        return time.time_ns() // 1_000_000 if self._live is None else self._live.now_ms()


class _Memory:
    """A client of Redis as far as runs are read with one."""

    def __init__(self, blob: Callable[[str], bytes | None]) -> None:
        self.hashes: dict[str, dict[bytes, bytes]] = {}
        self.streams: dict[str, list[Entry]] = {}
        self.get = blob

    def pipeline(self, transaction: bool = False) -> _Pipeline:  # noqa: ARG002  redis-py's signature
        return _Pipeline(self)

    def hgetall(self, key: str) -> dict[bytes, bytes]:
        return self.hashes.get(key, {})

    def hkeys(self, key: str) -> list[bytes]:
        return list(self.hashes.get(key, {}))

    def getrange(self, key: str, first: int, last: int) -> bytes:
        return (self.get(key) or b"")[first : last + 1]

    def xrange(self, key: str, min: str, count: int) -> list[Entry]:
        after = min.removeprefix("(") if min != "-" else "0"
        return [it for it in self.streams.get(key, []) if _order(it[0]) > _order(after.encode())][:count]

    def hget(self, key: str, name: str) -> bytes | None:
        return self.hashes.get(key, {}).get(name.encode())

    def hmget(self, key: str, names: Sequence[str | int]) -> list[bytes | None]:
        found = self.hashes.get(key, {})
        return [found.get(str(name).encode()) for name in names]

    def xrevrange(self, key: str, count: int) -> list[Entry]:
        return self.streams.get(key, [])[: -count - 1 : -1]

    def xread(
        self, streams: Mapping[str, str], count: int, block: int | None = None
    ) -> list[tuple[bytes, list[Entry]]]:
        [(key, after)] = streams.items()
        entries = [it for it in self.streams.get(key, []) if _order(it[0]) > _order(after.encode())][:count]
        if not entries and block:
            time.sleep(min(block, 1000) / 1000)  # there will never be more
        return [(key.encode(), entries)] if entries else []


class _Pipeline:
    """Commands whose answers come together."""

    def __init__(self, memory: _Memory) -> None:
        self._memory = memory
        self._answers: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answers = []

    def __getattr__(self, command: str) -> Callable[..., None]:
        def note(*arguments: Any) -> None:
            self._answers.append(getattr(self._memory, command)(*arguments))

        return note

    def execute(self) -> list[Any]:
        return self._answers


def _order(id_: bytes) -> tuple[int, int]:
    instant, _, number = id_.partition(b"-")
    return int(instant), int(number or 0)
