"""What people and programs outside tell a run: signals, answers to approvals, ends of jobs that they do for it.

Each comes as one record in the inbox of the run's shard, so any language that speaks to Redis can send it::

    XADD {cel:7}:inbox * signal   '{"v": 1, "run": "01jd...", "name": "payment", "payload": {"sum": 7}, "key": "p-1"}'
    XADD {cel:7}:inbox * answer   '{"v": 1, "run": "01jd...", "node": 3, "epoch": 1, "choice": "approve", "by": "ann"}'
    XADD {cel:7}:inbox * job      '{"v": 1, "token": "7.01jd....3.1.1", "output": {"pages": 12}}'

The number in the key is the run's shard; a token is an attempt's id, and begins with it. An error instead of an output
fails the job: {"error": {"kind": "transient", "type": "FarmBusy", "message": "..."}}. What cannot be read is put aside
as a dead letter; what is read and refused (late, twice, not as the schema says) is a line in the run's log.
"""

from __future__ import annotations

import json
import random
from typing import Any, NamedTuple

from ..core.events import Answered, Completed, Event, Signalled
from ..core.run import Run
from ..core.waiting import wait_of
from ..errors import ERROR_KINDS, WireError
from ..payloads import MAX_PAYLOAD_BYTES, problem_of
from ..wire import INLINE_LIMIT_BYTES, AttemptId, check_reader, error_record
from .batch import Batch
from .held import Held

MOST_TEXT = 2_000
MOST_NAME = 256


class Told(NamedTuple):
    """A record that was read: which run it is for, and the event it means; or why it is refused.

    Attributes:
        node: that it speaks of, -1 for none.
    """

    run: Run
    node: int
    event: Event | None
    refused: str


def told(held: Held, batch: Batch, kind: str, id_: str, raw: bytes) -> Told | None:
    """What a record means; None when its run has ended, or is another shard's.

    Args:
        kind: signal, answer or job.
        id_: of the entry that brought it.

    Raises:
        WireError: it cannot be read.
    """
    try:
        record = json.loads(raw)
        check_reader(kind, record)
        found = _READ[kind](held, batch, id_, record)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as broken:
        raise WireError(kind, f"{type(broken).__name__}: {broken}", raw[:200]) from broken
    return found


def _signal(held: Held, _batch: Batch, id_: str, record: dict[str, Any]) -> Told | None:
    run = held.runs.get(str(record["run"]))
    if run is None:
        return None
    name, key, by = (_text(record, field, MOST_NAME) for field in ("name", "key", "by"))
    payload = _payload(record.get("payload"), MAX_PAYLOAD_BYTES)
    waits = () if run.guards is None else run.guards.waits.values()
    wait = next((it for it in waits if it.kind == "signal" and it.name == name), None)
    refused = "" if wait is None else problem_of(wait.schema, record.get("payload"))
    event = None if refused else Signalled(id_, name, key, by, payload)
    return Told(run, -1, event, refused and f"signal {name} from {by}: {refused}")


def _answer(held: Held, batch: Batch, id_: str, record: dict[str, Any]) -> Told | None:
    run, node = held.runs.get(str(record["run"])), record["node"]
    if run is None:
        return None
    if type(node) is not int or not 0 <= node < run.n:
        raise ValueError(f"the run has no node {node!r}")
    choice, by, comment = (_text(record, field, MOST_TEXT) for field in ("choice", "by", "comment"))
    name = _text(record, "id", MOST_NAME) or id_
    said = _payload(record.get("answer"), MAX_PAYLOAD_BYTES)
    wait = wait_of(run, node)
    refused = "" if wait is None else problem_of(wait.form, record.get("answer"))
    epoch = int(record.get("epoch", run.epoch[node]))
    event = None if refused else Answered(node, epoch, name, choice, said, by, comment, batch.now)
    return Told(run, node, event, refused and f"answer {choice} from {by} ({name}): {refused}")


def _complete(held: Held, batch: Batch, _id: str, record: dict[str, Any]) -> Told | None:
    attempt = AttemptId.parse(str(record["token"]))
    if attempt is None or attempt.shard != held.keys.shard:
        raise ValueError("the token is no attempt of this shard")
    run = held.runs.get(attempt.run)
    if run is None or attempt.node >= run.n:
        return None
    output, error = _payload(record.get("output"), INLINE_LIMIT_BYTES), record.get("error")
    facts = None
    if error is not None:
        kind = str(error.get("kind", "transient"))
        if kind not in ERROR_KINDS:
            raise ValueError(f"no kind of error is {kind!r}; use one of {', '.join(ERROR_KINDS)}")
        type_, message = str(error.get("type", "JobFailed"))[:MOST_NAME], str(error.get("message", ""))
        error = error_record(kind, type_, message, origin="external")
    elif run.guards is not None and attempt.node in run.guards.wanted:
        facts = run.guards.facts(attempt.node, "output", record.get("output"))
    event = Completed(attempt.node, attempt.epoch, attempt.attempt, batch.now, output, error, random.random(), facts)
    return Told(run, attempt.node, event, "")


_READ = {"signal": _signal, "answer": _answer, "job": _complete}


def _text(record: dict[str, Any], field: str, most: int) -> str:
    """A field as text that may be stored and shown."""
    return str(record.get(field, ""))[:most].encode("utf-8", "replace").decode()


def _payload(value: Any, most: int) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    if len(text) > most:
        raise ValueError(f"it has {len(text):,} bytes, at most {most:,} are taken")
    return text
