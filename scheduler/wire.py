"""What crosses processes: ids, and versioned records (report in, event in, contract, message header).

Standard library and errors only, so that a worker, the scheduler and a client in any version can
load it. Every record is JSON with a version `v`; a reader ignores fields that it does not know and
refuses a record that it cannot use with WireError, which names the record and the field. A writer whose record would
be misunderstood by older readers says so in `min_reader`, the oldest version that may read it; who is older refuses it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from json.encoder import encode_basestring as _quoted
from typing import Any, Literal, NamedTuple, NewType
from urllib.parse import quote, unquote

from .errors import ERROR_KINDS, WireError, masked, shown

RunId = NewType("RunId", str)

VERSION = 1
INLINE_LIMIT_BYTES = 256 * 1024
"""A report carries an output up to this size; the worker puts a larger one aside as a blob."""

End = Literal["succeeded", "failed", "lost", "retried"]
OutputKind = Literal["inline", "blob", "none"]
ENDS: tuple[str, ...] = ("succeeded", "failed", "lost", "retried")
OUTPUT_KINDS: tuple[str, ...] = ("inline", "blob", "none")

CAPABILITY = "capability:"
"""What a name begins with that stands where an executor's name could, and asks for a capability."""
CAPABILITY_NAME = r"[A-Za-z0-9_.-]{1,100}"
"""What may follow."""
TOOL = "tool:"
"""What a name begins with that stands where an executor's name could, and asks for a tool: `tool:search@2`."""
TOOL_VERSION = r"(?:0|[1-9][0-9]{0,8})(?:\.(?:0|[1-9][0-9]{0,8}))?"
"""Of a tool: "2" or "2.1"."""

BUNDLE = "celeriac.bundle"
"""Name of the Celery task that carries several attempts of one queue class in one message."""
BUNDLES = 3
"""The form of its messages (worker/entries.py). Workers announce which forms they read, as a list (before 3, a number):
schedulers send nothing of the kind to a class that has a worker which does not read theirs.
"""

_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"
_RUN_ID = re.compile(r"[0-9a-z]{26}")
_TOOL = re.compile(rf"({CAPABILITY_NAME})(?:@({TOOL_VERSION}))?")
MOST_ID = 64
_ATTEMPT_ID = re.compile(r"([0-9]{1,4})\.([0-9a-z]{26})\.([0-9]{1,9})\.([0-9]{1,6})\.([0-9]{1,9})")
_PLACE = r"[0-9]{1,9}\.[0-9]{1,6}\.[0-9]{1,9}"
_PLACES = re.compile(f"{_PLACE}(?: {_PLACE})*")
CHAINED = "n"
"""Behind the token of a claim that was made with the report of the step before, and not for a message."""
ENDED = "x"
"""Before the token of a claim from which its worker has gone on."""
_BUNDLE_ID = re.compile(rf"{_ATTEMPT_ID.pattern}x[0-9]{{1,6}}")


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_read = json.JSONDecoder().raw_decode


def _base32(number: int, digits: int) -> str:
    return "".join(_BASE32[number >> (5 * place) & 31] for place in reversed(range(digits)))


def new_run_id(now_ms: int) -> RunId:
    """A fresh run id: 48 bits of time and 80 random bits, so ids sort by their birth.

    >>> len(new_run_id(0)), new_run_id(0) < new_run_id(10**12)
    (26, True)
    """
    return RunId(_base32(now_ms << 80 | int.from_bytes(os.urandom(10), "big"), 26))


def run_id_for_key(namespace: str, key: str) -> RunId:
    """The run id that an idempotency key determines: the same key finds the same run, always.

    >>> run_id_for_key("cel", "digest:1") == run_id_for_key("cel", "digest:1")
    True
    """
    digest = hashlib.blake2b(f"{namespace}\0{key}".encode(), digest_size=16).digest()
    return RunId(_base32(int.from_bytes(digest, "big"), 26))


def is_run_id(text: str) -> bool:
    """Whether `text` has the form of a run id. Nothing else ever becomes part of a Redis key."""
    return _RUN_ID.fullmatch(text) is not None


def shard_of(run: RunId, shards: int) -> int:
    """The shard that a run lives in, 0 <= shard < shards; stable for ever for a given number of shards."""
    return zlib.crc32(run.encode()) % shards


def allowed(executor: str, patterns: Iterable[str]) -> bool:
    """Whether a name fits one of these patterns, in which * stands for any text, ? for one character.

    >>> allowed("web.fetch", ["web.*"]), allowed("web.fetch", ["llm.*", "mail.send"])
    (True, False)
    """
    return any(it == "*" or fnmatchcase(executor, it) for it in patterns)


def capability_of(executor: str) -> str:
    """The capability that a name asks for; "" when it is the name of an executor.

    >>> capability_of("capability:generate"), capability_of("llm.small")
    ('generate', '')
    """
    return executor.removeprefix(CAPABILITY) if executor.startswith(CAPABILITY) else ""


def tool_of(executor: str) -> str:
    """The tool that a name asks for, with its version if it says one; "" when it asks for none.

    >>> tool_of("tool:search@2"), tool_of("tool:search"), tool_of("web.search")
    ('search@2', 'search', '')
    """
    return executor.removeprefix(TOOL) if executor.startswith(TOOL) else ""


def read_tool(tool: str) -> tuple[str, str] | None:
    """(name, version or "") of a tool as it is written; None when it is not written so.

    >>> read_tool("search@2.1"), read_tool("search"), read_tool("search@latest")
    (('search', '2.1'), ('search', ''), None)
    """
    found = _TOOL.fullmatch(tool)
    return None if found is None else (found[1], found[2] or "")


def version_numbers(version: str) -> tuple[int, ...]:
    """A version as numbers, to compare it by.

    >>> version_numbers("2.10") > version_numbers("2.9") > version_numbers("2")
    True
    """
    return tuple(map(int, version.split(".")))


def is_found_later(executor: str) -> bool:
    """Whether a name asks for a capability or a tool, so that an executor is found when its node is sent."""
    return executor.startswith((CAPABILITY, TOOL))


def placed(queue_class: str, executor: str = "") -> str:
    """Where an attempt goes, as a field of its state in the store; with the executor that was found for a capability or
    a tool.

    >>> placed("standard-low"), placed("standard-low", "a|b")
    ('standard-low', 'standard-low=a%7Cb')
    """
    return f"{queue_class}={quote(executor, safe='')}" if executor else queue_class


def read_place(field: str) -> tuple[str, str]:
    """(queue class, executor or "") of such a field.

    >>> read_place("standard-low"), read_place("standard-low=a%7Cb")
    (('standard-low', ''), ('standard-low', 'a|b'))
    """
    queue_class, _, executor = field.partition("=")
    return queue_class, unquote(executor)


class AttemptId(NamedTuple):
    """One try of one node. Its text form is the Celery task id and carries all that a claim needs."""

    shard: int
    run: RunId
    node: int
    epoch: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.shard}.{self.run}.{self.node}.{self.epoch}.{self.attempt}"

    @classmethod
    def parse(cls, text: str) -> AttemptId | None:
        """The attempt that a task id names, or None when the task is not one of ours.

        >>> AttemptId.parse("7.01jd0c0000000000000000000a.3.1.2").node
        3
        >>> AttemptId.parse("8b0b3a4e-37d5-4c1e-9d5e-3b6d6f1f0c55") is None
        True
        """
        return _parsed(text) if len(text) <= MOST_ID else None


def names_attempt(text: str) -> bool:
    """Whether a text is an attempt's id, for those that are not read here.

    >>> names_attempt("7.01jd0c0000000000000000000a.3.1.2"), names_attempt("7.01jd0c0000000000000000000a.3.1.2x40")
    (True, False)
    """
    return len(text) <= MOST_ID and _ATTEMPT_ID.fullmatch(text) is not None


def are_places(told: list[Any]) -> bool:
    """Whether these are "node.epoch.attempt" each, the end of an attempt's id.

    >>> are_places(["3.1.2", "4.1.1"]), are_places(["3.1"]), are_places(["3.1.2 4.1.1"]), are_places([3])
    (True, False, False, False)
    """
    try:
        text = " ".join(told)
    except TypeError:
        return False
    return _PLACES.fullmatch(text) is not None and text.count(" ") == len(told) - 1


def bundle_id(first: str, count: int) -> str:
    """The Celery task id of a message that carries several attempts: the id of the first, and how many there are.

    >>> bundle_id("7.01jd0c0000000000000000000a.3.1.2", 40)
    '7.01jd0c0000000000000000000a.3.1.2x40'
    """
    return f"{first}x{count}"


def first_of(task_id: str) -> str:
    """The attempt that a message is named after: its own, or the first of a bundle.

    >>> first_of("7.01jd0c0000000000000000000a.3.1.2x40")
    '7.01jd0c0000000000000000000a.3.1.2'
    """
    return task_id.rpartition("x")[0] if _BUNDLE_ID.fullmatch(task_id) else task_id


def chain_of(token: str) -> str:
    """The token of a claim as its worker knows it, if it is one of a next step of a chain; else "".

    >>> chain_of("5fn"), chain_of("x5fn"), chain_of("5f")
    ('5fn', '5fn', '')
    """
    return token.removeprefix(ENDED) if token.endswith(CHAINED) else ""


def traceparent(run: str, node: int, attempt: int) -> str:
    """W3C trace context of an attempt: one run is one trace, one attempt one span.

    >>> traceparent("0" * 26, 3, 1)
    '00-00000000000000000000000000000001-0000000300000001-01'
    """
    return f"00-{_trace(run)}-{node & 0xFFFFFFFF:08x}{attempt & 0xFFFFFFFF:08x}-01"


def carried(task_id: object, header: object) -> list[str]:
    """The attempts that a Celery message carries: one, those of a bundle, or none when the message is not ours.

    Args:
        task_id: its Celery task id.
        header: its header `celeriac`, which came over the wire and may be anything.

    >>> one = "7.01jd0c0000000000000000000a.3.1.2"
    >>> carried(one, None), carried("8b0b3a4e", {"attempts": [{"id": one}]})
    (['7.01jd0c0000000000000000000a.3.1.2'], [])
    >>> several = bundle_id(one, 1)
    >>> carried(several, {"attempts": f"{one} else"}), carried(several, {"attempts": [7]})
    (['7.01jd0c0000000000000000000a.3.1.2'], [])
    """
    if not isinstance(task_id, str):
        return []
    if AttemptId.parse(task_id) is not None:
        return [task_id]
    if _BUNDLE_ID.fullmatch(task_id) is None or not isinstance(header, dict):
        return []
    told = header.get("attempts")
    return [it for it in told.split(" ") if _ATTEMPT_ID.fullmatch(it)] if isinstance(told, str) else []


@lru_cache(256)
def _trace(run: str) -> str:
    return f"{int(run, 36) % (1 << 128) or 1:032x}"


@lru_cache(4096)
def _parsed(text: str) -> AttemptId | None:
    """Remembered, for a worker asks the same of an attempt several times."""
    found = _ATTEMPT_ID.fullmatch(text)
    if found is None:
        return None
    shard, run, node, epoch, attempt = found.groups()
    return AttemptId(int(shard), RunId(run), int(node), int(epoch), int(attempt))


class Report(NamedTuple):
    """How one attempt ended, as its worker saw it. The output travels beside it, as raw JSON bytes.

    Attributes:
        id: text form of the AttemptId.
        end: succeeded, failed, lost (infrastructure took it) or retried (the task called retry()).
        worker: name of the worker, for people.
        claimed_at_ms: when the claim was granted, by Redis's clock; None when it never was.
        output: where the output is: in the entry, in a blob, or there is none.
        error: kind, type, message, traceback, origin; None for succeeded.
        retry_after_ms: the wait that the executor asked for, or None.
        ran_us: how long the task itself ran; None when the worker does not know.
        goes_on: id of the next step of its chain, which its worker has claimed with this report; "" for none.
        chained: it was begun so itself, and not by a message.
        chain: token of the claims that are made so, where either is; of all that may be said of such an attempt, what
            comes from the claim that the scheduler has heard of counts.
    """

    id: str
    end: str
    worker: str = ""
    claimed_at_ms: int | None = None
    output: str = "none"
    error: dict[str, Any] | None = None
    retry_after_ms: int | None = None
    ran_us: int | None = None
    goes_on: str = ""
    chained: bool = False
    chain: str = ""

    def to_json(self, goes_on: str = "", chain: str = "") -> bytes:
        """The record as it travels; fields without a value are left out.

        Args:
            goes_on, chain: in the place of these fields.
        """
        text = f'{{"v":{VERSION},"id":{_quoted(self.id)},"end":{_quoted(self.end)},"worker":{_quoted(self.worker)}'
        if self.claimed_at_ms is not None:
            text += f',"claimed_at_ms":{self.claimed_at_ms}'
        if self.output != "none":
            text += f',"output":{_quoted(self.output)}'
        if self.error is not None:
            text += f',"error":{_json(self.error)}'
        if self.retry_after_ms is not None:
            text += f',"retry_after_ms":{self.retry_after_ms}'
        if self.ran_us is not None:
            text += f',"ran_us":{self.ran_us}'
        if goes_on := goes_on or self.goes_on:
            text += f',"goes_on":{_quoted(goes_on)}'
        if self.chained:
            text += ',"chained":true'
        if chain := chain or self.chain:
            text += f',"chain":{_quoted(chain)}'
        return f"{text}}}".encode("utf-8", "backslashreplace")

    @classmethod
    def from_json(cls, raw: bytes) -> Report:
        """Read a record of this or a later version.

        Raises:
            WireError: not JSON, not an object, a field that we need is missing or of a wrong type, or its writer
                says that it takes a newer version to understand it.
        """
        try:
            text = raw.decode("utf-8", "surrogatepass")
            record, length = _read(text)  # half the price of json.loads
            if length != len(text):
                record = json.loads(text)
            get = record.get
            if "min_reader" in record:
                check_reader("report", record)
            end = record["end"]
            output = get("output", "none")
            if end not in ENDS:
                raise WireError("report", f"`end` is not one of {', '.join(ENDS)}", end)
            if output not in OUTPUT_KINDS:
                raise WireError("report", f"`output` is not one of {', '.join(OUTPUT_KINDS)}", output)
            claimed_at_ms, retry_after_ms, error = get("claimed_at_ms"), get("retry_after_ms"), get("error")
            if type(claimed_at_ms) not in _INT_OR_NONE or type(retry_after_ms) not in _INT_OR_NONE:
                raise WireError("report", "claimed_at_ms and retry_after_ms must be whole milliseconds", record)
            if error is not None and type(error) is not dict:
                raise WireError("report", "`error` is not an object", error)
            id_, worker, ran_us = str(record["id"]), str(get("worker", "")), get("ran_us")
            ran_us = ran_us if type(ran_us) is int and ran_us >= 0 else None  # worth nothing, if it is wrong
            goes_on, chained, chain = get("goes_on", ""), get("chained") is True, get("chain", "")
            after = retry_after_ms
            return cls(id_, end, worker, claimed_at_ms, output, error, after, ran_us, str(goes_on), chained, str(chain))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as broken:
            raise WireError("report", f"{type(broken).__name__}: {broken}", raw[:200]) from broken


_INT_OR_NONE = (int, type(None))


def check_reader(record: str, fields: Mapping[str, Any]) -> None:
    """Whether this version may read a record.

    Args:
        record: which kind, for the error.
        fields: of the record.

    Raises:
        WireError: its writer says that a newer version is needed.

    >>> check_reader("report", {"v": 7, "min_reader": 1})
    """
    oldest = fields.get("min_reader")
    if oldest is not None and not (type(oldest) is int and oldest <= VERSION):
        raise WireError(record, f"only version {shown(oldest)} and later can read it, and this is version {VERSION}")


class DeadMessage(NamedTuple):
    """A message that a worker could not make a task of, as it travels to the dead letters.

    Attributes:
        cause: why.  queue: where it was.  worker: who rejected it.  task, id: what its headers said, "" for nothing.
        form: kombu (a message with headers and body) or raw (an entry of a Redis list that is none).
        body: base64, of at most what is kept.  size: of the whole body, bytes.  cut: something of it is missing.
        passed_over: rejected messages before this one that nobody was told of, because they were too many.
    """

    cause: str
    queue: str = ""
    worker: str = ""
    task: str = ""
    id: str = ""
    form: str = "kombu"
    content_type: str | None = None
    content_encoding: str | None = None
    headers: dict[str, Any] = {}  # noqa: RUF012  never changed
    properties: dict[str, Any] = {}  # noqa: RUF012  never changed
    body: str = ""
    size: int = 0
    cut: bool = False
    passed_over: int = 0

    def to_json(self) -> bytes:
        """The record as it travels."""
        return json.dumps({"v": VERSION, **self._asdict()}, default=str, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> DeadMessage:
        """Read a record of this or a later version.

        Raises:
            WireError: not JSON, not an object, or a field of a wrong type.
        """
        try:
            record = json.loads(raw)
            found = cls(**{name: record[name] for name in cls._fields if name in record})
            for name, value in found._asdict().items():
                if not isinstance(value, _DEAD_TYPES.get(name, str)):
                    raise WireError("dead", f"`{name}` is of a wrong type", value)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as broken:
            raise WireError("dead", f"{type(broken).__name__}: {broken}", raw[:200]) from broken
        return found


_DEAD_TYPES: dict[str, Any] = {
    "content_type": (str, type(None)),
    "content_encoding": (str, type(None)),
    "headers": dict,
    "properties": dict,
    "size": int,
    "cut": bool,
    "passed_over": int,
}


def error_record(
    kind: str,
    type_: str,
    message: str,
    *,
    origin: str | None = None,
    phase: str = "execute",
    traceback: str | None = None,
) -> dict[str, Any]:
    """An error as it travels and is stored: capped, so that one failure cannot flood the store, and without the
    passwords of URLs. Its scheduler adds the run's correlation id.

    Args:
        kind: one of errors.ERROR_KINDS.
        type_: name of the exception's class.
        message: its text; cut at 2,000 characters.
        origin: who is at fault, one of errors.ORIGINS; None for whom the kind means.
        phase: where on its way the attempt was, one of errors.PHASES.
        traceback: text; the last 8,000 characters are kept.
    """
    origin = origin or (ERROR_KINDS[kind].origin if kind in ERROR_KINDS else "executor")
    record = {"kind": kind, "type": type_, "message": masked(message)[:2000], "origin": origin, "phase": phase}
    if traceback:
        record["traceback"] = masked(traceback)[-8000:]
    return record
