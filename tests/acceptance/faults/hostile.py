"""Hostile messages: malformed ones, each delivery doubled, messages that vanish, reports that nobody made.

What is done to a broker and to inboxes in Redis from outside, over connections of the test's own. Nothing here
knows how the system decides; it knows only what a message looks like on kombu's Redis transport (a JSON envelope in a
list) and that a report is an entry of a stream. What is hit is drawn from a seeded generator.
"""

from __future__ import annotations

import base64
import json
import pickle
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import redis

Headers = dict[str, Any]
Message = tuple[Any, Headers, str]
"""Body (bytes stay as they are, all else becomes JSON), headers, content type."""

GOOD_BODY: list[Any] = [[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
JSON_TYPE, PICKLE_TYPE = "application/json", "application/x-python-serialize"
UNACKED = ("unacked", "unacked_index")
"""Where kombu's Redis transport keeps what workers hold."""


# --- malformed messages -----------------------------------------------------------------------------------------


class Shape(NamedTuple):
    """One way to be malformed: a name, and what makes a bad message of a good one's body and headers."""

    name: str
    change: Callable[[Any, Headers], Message]


def _headers(**changes: Any) -> Callable[[Any, Headers], Message]:
    return lambda body, headers: (body, {**headers, **changes}, JSON_TYPE)


SHAPES: tuple[Shape, ...] = (
    Shape("args null", lambda body, headers: ([None, *body[1:]], headers, JSON_TYPE)),
    Shape("kwargs no mapping", lambda body, headers: ([body[0], [2], body[2]], headers, JSON_TYPE)),
    Shape("body not a 3-list", lambda body, headers: (body[:2], headers, JSON_TYPE)),
    Shape("undecodable body", lambda _body, headers: (b"{[\xff", headers, JSON_TYPE)),
    Shape("bad ETA", _headers(eta="soon")),
    Shape("timelimit of a wrong type", _headers(timelimit=["a", "b"])),
    Shape("unregistered name", _headers(task="nowhere.at.all")),
    Shape("content type refused", lambda body, headers: (body, headers, "application/x-yaml")),
    Shape("pickle", lambda body, headers: (pickle.dumps(body), headers, PICKLE_TYPE)),
    Shape("no id", lambda body, headers: (body, {k: v for k, v in headers.items() if k != "id"}, JSON_TYPE)),
)
"""The ten shapes of table 1 that Celery dies of, loops on, or drops in silence."""


class Bomb:
    """Unpickling this makes a file: the proof that somebody unpickled it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def envelope(queue: str, message: Message) -> bytes:
    """A message as it lies in a queue of kombu's Redis transport."""
    body, headers, content_type = message
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    tag = f"{headers.get('id', 'nobody')}~{random.getrandbits(64)}"
    properties = {
        "correlation_id": str(headers.get("id", "")),
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": queue},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": tag,
    }
    made = {"body": base64.b64encode(raw).decode(), "content-encoding": "utf-8", "content-type": content_type}
    return json.dumps(made | {"headers": headers, "properties": properties}).encode()


def headers_of(id_: str, task: str) -> Headers:
    """The headers that Celery needs."""
    return {"lang": "py", "task": task, "id": id_, "root_id": id_, "parent_id": None, "group": None, "retries": 0}


def corrupt(client: Any, queue: str, shapes: Sequence[Shape]) -> list[str]:
    """Take messages that wait in a queue and put them back malformed, one for each shape, at the end they came from.

    Returns:
        The names of the shapes that found a message.
    """
    messages = client.rpop(queue, len(shapes)) or []
    changed = []
    for shape, message in zip(shapes, messages, strict=False):
        found = json.loads(message)
        body = json.loads(base64.b64decode(found["body"]))
        changed.append(envelope(queue, shape.change(body, found["headers"])))
    if changed:
        client.rpush(queue, *changed)
    return [shape.name for shape, _ in zip(shapes, messages, strict=False)]


def vanish(client: Any, queues: Sequence[str]) -> int:
    """Delete queues and what workers hold unacknowledged, at one instant; returns how many messages that were."""
    with client.pipeline(transaction=True) as pipe:
        for queue in queues:
            pipe.llen(queue)
        pipe.hlen(UNACKED[0])
        pipe.unlink(*queues, *UNACKED)
        *counts, _ = pipe.execute()
    return sum(counts)


# --- reports ----------------------------------------------------------------------------------------------------


def forge(client: Any, id_: str, end: str, *, output: object = None, error: dict[str, Any] | None = None) -> None:
    """A report that no worker made, into the inbox of the attempt's shard."""
    record: dict[str, Any] = {"v": 1, "id": id_, "end": end, "worker": "nobody@nowhere"}
    fields: list[str] = []
    if end == "succeeded":
        record["output"] = "inline"
        fields = ["output", json.dumps(output)]
    else:
        record["error"] = error or {"kind": "transient", "type": "Forged", "message": "", "origin": "executor"}
    client.execute_command("XADD", inbox_of(id_), "*", "report", json.dumps(record), *fields)


def inbox_of(id_: str) -> str:
    """The stream into which the report of an attempt goes."""
    return f"{{cel:{id_.partition('.')[0]}}}:inbox"


def reorder(client: Any, inboxes: Iterable[str], chance: random.Random, again: float = 0.2) -> int:
    """Shuffle the entries that wait in inboxes, and put some in twice. For when no scheduler reads them.

    Returns:
        How many entries changed places or came twice.
    """
    moved = 0
    for inbox in inboxes:
        found = client.execute_command("EVAL", "return redis.call('XRANGE', KEYS[1], '-', '+')", 1, inbox)
        entries = [fields for _, fields in found]
        mixed = entries + [it for it in entries if chance.random() < again]
        chance.shuffle(mixed)
        with client.pipeline(transaction=True) as pipe:
            for fields in mixed:
                pipe.execute_command("XADD", inbox, "*", *fields)
            if found:
                pipe.execute_command("XDEL", inbox, *(id_ for id_, _ in found))
            pipe.execute()
        moved += sum(a is not b for a, b in zip(entries, mixed, strict=False)) + len(mixed) - len(entries)
    return moved


# --- everything twice -------------------------------------------------------------------------------------------

_LINE = re.compile(rb"^[0-9.]+ \[[0-9]+ [^\]]*\] (.*)$", re.DOTALL)
_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|.)", re.DOTALL)
_PLAIN = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}


def words_of(line: bytes) -> list[bytes]:
    r"""The command of a line that MONITOR prints, exactly as it was sent.

    >>> words_of(b'1.5 [0 unix:/s] "LPUSH" "q" "a\\"b\\x00\\n"')
    [b'LPUSH', b'q', b'a"b\x00\n']
    """
    found = _LINE.match(line)

    def meant(escape: re.Match[bytes]) -> bytes:
        word = escape[1]
        return bytes([int(word[1:], 16)]) if len(word) == 3 else _PLAIN.get(word, word)

    return [_ESCAPE.sub(meant, word) for word in _WORD.findall(found[1])] if found else []


def attempts_of(headers: dict[str, Any]) -> int:
    """How many attempts a message carries: a list of one, or the ids of several as one text."""
    told = headers["celeriac"]["attempts"]
    return len(told.split() if isinstance(told, str) else told)


def _attempts(message: bytes) -> int:
    """The same of a message as kombu lays it into Redis."""
    return attempts_of(json.loads(message)["headers"])


class Doubler:
    """While it is open, each message laid into a queue and each entry laid into an inbox comes a second time.

    It listens to all commands by MONITOR, so nothing is too quick for it.

    Args:
        client: makes connections to the Redis that is meant.
        queues: whose messages; none leaves messages alone.
        inboxes: whether entries of inboxes too.

    Attributes:
        attempts, reports: how many were doubled; a message may carry several, and so may an entry.
    """

    def __init__(self, client: redis.Redis, queues: Iterable[str], *, inboxes: bool = True) -> None:
        self.client: Any = client
        self.attempts = self.reports = 0
        self._queues = {queue.encode() for queue in queues}
        self._inboxes = inboxes
        self._own: Counter[tuple[bytes, ...]] = Counter()
        self._over, self._caught_up = threading.Event(), threading.Event()
        self._mark = f"so far {id(self)}"
        self._trouble: BaseException | None = None
        self._connection: Any = None
        self._thread = threading.Thread(target=self._run, name="doubler", daemon=True)

    def __enter__(self) -> Self:
        self._connection = self.client.connection_pool.get_connection()
        self._connection.send_command("MONITOR")
        self._connection.read_response()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(30)
        self._connection.disconnect()
        if self._trouble is not None:
            raise self._trouble

    def catch_up(self, seconds: float = 60.0) -> None:
        """Returns when all that was sent so far has come a second time."""
        self._caught_up.clear()
        self.client.execute_command("ECHO", self._mark)
        if not self._caught_up.wait(seconds):
            raise AssertionError(f"not within {seconds} s: everything came twice")

    def _run(self) -> None:
        try:
            for words in self._commands():
                self._double(words)
        except BaseException as trouble:  # noqa: BLE001  a thread's end must not be silent; raised by __exit__
            self._trouble = trouble

    def _commands(self) -> Iterator[list[bytes]]:
        while not self._over.is_set():
            if self._connection.can_read(timeout=0.2):
                yield words_of(self._connection.read_response(disable_decoding=True))

    def _double(self, words: list[bytes]) -> None:
        if words == [b"ECHO", self._mark.encode()]:
            self._caught_up.set()
        if len(words) < 3:
            return
        command, key = words[0].upper(), words[1]
        if command in (b"LPUSH", b"RPUSH") and key in self._queues:
            self.attempts += self._again([command, key, *words[2:]], sum(map(_attempts, words[2:])))
        elif command == b"XADD" and self._inboxes and key.endswith(b"}:inbox") and words[2] == b"*":
            self.reports += self._again([command, *words[1:]], words[3::2].count(b"report"))

    def _again(self, words: list[bytes], count: int) -> int:
        what = tuple(words)
        if self._own[what]:
            self._own[what] -= 1
            return 0
        self._own[what] += 1
        self.client.execute_command(*words)
        return count
