r"""What an archived run looks like: JSON lines that hold all that the store kept of it, text as text.

::

    {"celeriac_archive": 1, "run": "01jd...", "namespace": "cel", "ended_at_ms": 17..., "fields": {}, "header": {}}
    {"page": 0, "graph": {...}}                              the compiled graph, page by page, as submit stored it
    {"node": 3, "key": "load", "state": "succeeded", "record": "S|1|1|0|0|...", "value": "{\"rows\":7}"}
    {"signal": "17...-0.0", "value": "{\"name\": ...}"}        a signal that the run has taken
    {"blob": "{cel:7}:blob:7.01jd....3.1.1", "base64": "..."}  a large output, in pieces of 1 MiB
    {"log": "17...-0", "moves": [...]}                       an entry of the run's log
    {"end": 1234}                                            how many lines came before: the file is whole

`fields` are the run's facts as stored (name, state, reason, labels, key, hash, instants, progress); `record` is drawn
in core/run.py; `value` is the JSON text of an output or error, byte for byte. Where the store holds what is not text
or not JSON, `base64` stands for it, so nothing is lost and no run is too odd to be archived. A reader ignores kinds of
lines and fields that it does not know.
"""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from ..core.states import LETTERS, NodeState
from ..store.ended import Ended, Piece
from ..wire import RunId, is_run_id

VERSION = 1
_LEVEL = 6
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


@dataclass
class Archived:
    """One run as read from its archive: what the store held of it.

    Attributes:
        fields: of its hash, "header" included.  pages, records, values: by number.  signals: by id.
        log: (id, fields) in order.
    """

    run: RunId
    namespace: str
    ended_at_ms: int
    fields: dict[bytes, bytes]
    pages: dict[int, bytes] = field(default_factory=dict)
    records: dict[int, bytes] = field(default_factory=dict)
    values: dict[int, bytes] = field(default_factory=dict)
    signals: dict[str, bytes] = field(default_factory=dict)
    log: list[tuple[bytes, dict[bytes, bytes]]] = field(default_factory=list)


def write(to: BinaryIO, namespace: str, it: Ended, pieces: Iterable[Piece], breathe: Callable[[], None]) -> None:
    """A run as a compressed file.

    Args:
        to: gets gzip.
        pieces: of EndedRuns.
        breathe: called after every line, so that this thread may leave the interpreter to others.
    """
    with gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=to, mtime=0) as file:
        number = 0
        for line in archived_lines(namespace, it, pieces):
            number += 1
            file.write(line.encode("utf-8", "surrogatepass"))
            file.write(b"\n")
            breathe()
        file.write(_encode({"end": number}).encode())
        file.write(b"\n")


def archived_lines(namespace: str, it: Ended, pieces: Iterable[Piece]) -> Iterator[str]:
    """A run as lines of JSON, without the last, which tells their number."""
    facts = {name.decode("utf-8", "replace"): _text(value) for name, value in it.fields.items() if name != b"header"}
    first = {"celeriac_archive": VERSION, "run": it.run, "namespace": namespace, "ended_at_ms": it.at_ms}
    yield _encode({**first, "fields": facts, "header": _unzipped(it.fields.get(b"header", b""))})
    keys: dict[int, str] = {}
    for kind, name, raw in pieces:
        if kind == "page":
            graph = _unzipped(raw)
            found = graph.get("keys", ()) if isinstance(graph, dict) else ()
            keys.update(enumerate(found, len(keys)))
            yield _encode({"page": name, "graph": graph})
        elif kind == "node":
            yield _encode(_node(name, keys.get(name), *raw))
        elif kind == "signal":
            yield _encode({"signal": name, "value": _text(raw)})
        elif kind == "blob":
            yield _encode({"blob": name, "base64": base64.b64encode(raw).decode()})
        else:
            yield _log_line(name, raw)


def _node(node: int, key: str | None, record: bytes | None, value: bytes | None) -> dict[str, Any]:
    line: dict[str, Any] = {"node": node, "key": key}
    if record is not None:
        letter = chr(record[0])
        line["state"] = NodeState(LETTERS.index(letter)).word if letter in LETTERS else letter
        line["record"] = _text(record)
    if value is not None:
        line["value"] = _text(value)
    return line


_LOG_FIELDS = {b"moves", b"told"}


def _log_line(id_: str, fields: Mapping[bytes, bytes]) -> str:
    if b"moves" in fields and fields.keys() <= _LOG_FIELDS:
        try:
            found = {name.decode(): json.loads(it) for name, it in fields.items()}
        except ValueError:
            pass
        else:
            return _encode({"log": id_, **found})
    return _encode({"log": id_, "fields": {name.decode("utf-8", "replace"): _text(it) for name, it in fields.items()}})


def read_first(file: BinaryIO) -> Archived:
    """The facts of an archived run alone; reads no more than its first line.

    Raises:
        ValueError: that is no archived run.  OSError, EOFError, zlib.error: nor gzip.
    """
    with gzip.open(file, "rb") as lines:
        return _first(json.loads(lines.readline()))


def read(file: BinaryIO) -> Archived:
    """An archived run, but for its large outputs (see `read_blob`).

    Raises:
        ValueError: it is none, or not whole.  OSError, EOFError, zlib.error: not gzip, or cut.
    """
    with gzip.open(file, "rb") as lines:
        return read_lines(lines)


def read_lines(lines: Iterable[bytes]) -> Archived:
    """The same from its lines.

    Raises:
        ValueError: that is no archived run, or not whole.
    """
    rest = iter(lines)
    found = _first(json.loads(next(rest, b"null")))
    number, end = 1, None
    for raw in rest:
        end = None if raw.startswith(b'{"blob":') else _take(found, json.loads(raw))
        number += 1
    if end != number - 1:
        raise ValueError("its last line is missing")
    return found


def read_blob(file: BinaryIO, key: str) -> bytes | None:
    """A large output of an archived run, by the key that it had in the store; None when it has none of that name."""
    wanted = f'{{"blob":{_encode(key)},'.encode()
    pieces = []
    with gzip.open(file, "rb") as lines:
        for raw in lines:
            if raw.startswith(wanted):
                pieces.append(base64.b64decode(json.loads(raw)["base64"]))
            elif pieces:
                break
    return b"".join(pieces) if pieces else None


def _first(line: Any) -> Archived:
    if not isinstance(line, dict) or line.get("celeriac_archive") != VERSION or not is_run_id(str(line.get("run"))):
        raise ValueError(f"it is no archived run of version {VERSION}")
    fields = {name.encode(): _bytes(value) for name, value in line["fields"].items()}
    fields[b"header"] = _zipped(line["header"])
    return Archived(RunId(line["run"]), str(line["namespace"]), int(line["ended_at_ms"]), fields)


def _take(found: Archived, line: Any) -> int | None:
    """One further line into what was found; the number that the last one tells."""
    if "node" in line:
        node = int(line["node"])
        if "record" in line:
            found.records[node] = _bytes(line["record"])
        if "value" in line:
            found.values[node] = _bytes(line["value"])
    elif "page" in line:
        found.pages[int(line["page"])] = _zipped(line["graph"])
    elif "signal" in line:
        found.signals[line["signal"]] = _bytes(line["value"])
    elif "log" in line:
        if "moves" in line:
            here = {name: line[name] for name in ("moves", "told") if name in line}
            fields = {name.encode(): _encode(it).encode("utf-8", "surrogatepass") for name, it in here.items()}
        else:
            fields = {name.encode(): _bytes(value) for name, value in line["fields"].items()}
        found.log.append((line["log"].encode(), fields))
    elif "end" in line:
        return int(line["end"])
    return None


def _text(raw: bytes) -> str | dict[str, str]:
    """Bytes of the store as text, or as base64 when they are none."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def _bytes(value: Any) -> bytes:
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else str(value).encode()


def _unzipped(raw: bytes) -> Any:
    """What the store keeps as zlib of JSON; as base64 when it is not."""
    try:
        return json.loads(zlib.decompress(raw))
    except (ValueError, zlib.error):
        return {"base64": base64.b64encode(raw).decode()}


def _zipped(value: Any) -> bytes:
    if isinstance(value, dict) and value.keys() == {"base64"}:
        return base64.b64decode(value["base64"])
    return zlib.compress(_encode(value).encode("utf-8", "surrogatepass"), 1)
