"""Bundles: one run in one file, to be looked at elsewhere and decided again without Redis.

Gzip of JSON lines: what the bundle is (versions, executors), the run as an archive has it (lines.py: graph, records,
outputs and errors, large outputs, log), and a digest of all lines before. Secrets are names in it, as in the store.
A bundle of a live run is of one moment if the log stood still while it was written, and says whether it did.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.history import lines_of
from ..core.replay import Replay, Replayer
from ..core.run import GRAPH_FORMAT, Run
from ..errors import BundleError
from ..store.ended import Ended, EndedRuns
from ..store.facts import facts_in_store
from ..store.outcomes import log_end
from ..store.runs import Runs
from ..wire import VERSION as WIRE
from ..wire import RunId
from .lines import archived_lines, read_blob, read_lines
from .shelf import Shelf

FORMAT = 1
_TRIES = 3
_LEVEL = 6
_DAMAGED = (ValueError, KeyError, TypeError, AttributeError, OSError, EOFError, zlib.error)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read.

    Attributes:
        facts: of its first line: versions, executors, exported_at_ms, and whether it is of one moment.
        shelf: the run, to be read like the store.
        run: its id.
    """

    facts: Mapping[str, Any]
    shelf: Shelf
    run: RunId


def write_bundle(runs: Runs, run: RunId, path: Path, versions: Mapping[str, str]) -> bool:
    """Write a run into a file of its own, for its owner alone (0600). Whether it is of one moment.

    Args:
        runs: where it is read, the store or the archive.
        path: is written anew.
        versions: package -> version, of this installation.

    Raises:
        RunNotFound: there is no such run.
        OSError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        for number in range(1, _TRIES + 1):
            before = log_end(runs, run)
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                whole = _write(file, _lines(runs, run, versions), lambda: log_end(runs, run) == before)  # noqa: B023  called now
            if whole or number == _TRIES:
                partial.replace(path)
                return whole
    finally:
        partial.unlink(missing_ok=True)
    raise AssertionError("the last try returns")


def _write(file: Any, lines: Iterable[str], whole: Callable[[], bool]) -> bool:
    """All lines, and the last one; whether they are of one moment, asked when all of them were read."""
    digest = hashlib.sha256()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=file, mtime=0) as zipped:
        for line in lines:
            raw = line.encode("utf-8", "surrogatepass") + b"\n"
            digest.update(raw)
            zipped.write(raw)
        found = whole()
        zipped.write(json.dumps({"sha256": digest.hexdigest(), "whole": found}).encode() + b"\n")
    return found


def _lines(runs: Runs, run: RunId, versions: Mapping[str, str]) -> Iterator[str]:
    """All lines but the last."""
    summary, loaded = runs.summary(run), runs.load(run)
    used = {it.executor for it in loaded.profiles if it.executor}
    yield json.dumps(
        {
            "celeriac_bundle": FORMAT,
            "run": run,
            "exported_at_ms": runs.now_ms(),
            "versions": {**versions, "python": platform.python_version(), "wire": WIRE, "graph_format": GRAPH_FORMAT},
            "executors": {name: it for name, it in sorted(runs.contracts().items()) if name in used},
            "state": summary.state.value,
        },
        ensure_ascii=False,
    )
    fields = runs.client.hgetall(runs.keys_of(run).run(run))
    at = summary.ended_at_ms or 0
    it = Ended(run, runs.shard(run), at, summary.state.value, summary.nodes, fields, log_end(runs, run))
    number = 0
    for line in archived_lines(runs.namespace, it, EndedRuns(runs).pieces(it)):
        number += 1
        yield line
    yield json.dumps({"end": number})


def read_bundle(path: Path) -> Bundle:
    """A bundle, if it is as it was written.

    Raises:
        BundleError: it is none, not whole, or was changed.
    """
    try:
        with gzip.open(path, "rb") as file:
            *lines, last = file.read().splitlines(keepends=True)
        facts = json.loads(lines[0])
        if facts.get("celeriac_bundle") != FORMAT:
            raise BundleError(str(path), f"is no bundle of format {FORMAT}")
        end = json.loads(last)
        if end["sha256"] != hashlib.sha256(b"".join(lines)).hexdigest():
            raise BundleError(str(path), "was changed since it was written: its digest is another")
        found = read_lines(lines[1:])
    except _DAMAGED as broken:
        raise BundleError(str(path), f"cannot be read: {type(broken).__name__}: {broken}") from broken
    inner = gzip.compress(b"".join(lines[1:]), 1)
    shelf = Shelf(found, lambda key: read_blob(io.BytesIO(inner), key))
    return Bundle({**facts, "whole": bool(end.get("whole", True))}, shelf, found.run)


def replay(shelf: Shelf, run: RunId, *, whole: bool = True) -> Replay:
    """Decide again all that a run's log tells; from the file alone. O(log).

    Args:
        shelf: an archived run, or that of a bundle.
        whole: its records are of the same moment as its log, so they are compared with what the replay ends with.
    """
    stored = shelf.load(run)
    keys = shelf.keys_of(run)
    fields = shelf.client.hgetall(keys.run(run))
    spec = {int(number): raw for number, raw in shelf.client.hgetall(keys.spec(run)).items()}
    pages = [spec[number] for number in sorted(spec)]
    header = json.loads(zlib.decompress(fields[b"header"]))

    def load(records: Iterable[tuple[int, bytes]]) -> Run:
        made = Run.load(run, header, pages, records, created_at_ms=stored.created_at_ms)
        made.deadline_at_ms = stored.deadline_at_ms
        return made

    def facts_of(node: int, epoch: int) -> Any:
        return facts_in_store(shelf, stored, node) if stored.epoch[node] == epoch else None

    return Replayer(load, lines_of(shelf.history(run)), facts_of).replay(shelf.stored_records if whole else None)
