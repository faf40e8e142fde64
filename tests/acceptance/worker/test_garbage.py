"""Entries of a queue that are no messages, or messages of no shape that Celery knows: none of them ends a worker."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.worker.post import Post, Worker, until

QUEUE = "garbage"


def message(tag: str, *, without: str = "", properties: Any = None, **parts: Any) -> bytes:
    """An envelope of kombu's with an empty protocol 2 body, some parts of it replaced, one left out."""
    whole = {
        "body": "W1tdLCB7fSwge31d",
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"lang": "py", "id": f"garbage-{tag}", "task": "sample.echo", "ignore_result": True},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": tag,
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            **(properties or {}),
        },
        **{name.replace("_", "-"): part for name, part in parts.items()},
    }
    whole.pop(without, None)
    return json.dumps(whole).encode()


def protocol_1(tag: str, **fields: Any) -> bytes:
    """A message of Celery's first protocol, whose headers are fields of its body."""
    body = {"id": f"garbage-{tag}", "task": "sample.echo", "args": [], "kwargs": {}, **fields}
    return message(tag, headers={}, body=base64.b64encode(json.dumps(body).encode()).decode())


def with_header(tag: str, **headers: Any) -> bytes:
    """The same with some headers replaced."""
    return message(tag, headers={"lang": "py", "id": f"garbage-{tag}", "task": "sample.echo", **headers})


GARBAGE = {
    "not JSON": b"{[",
    "not UTF-8": b"\xff\xfe",
    "nothing": b"",
    "a number": b"5",
    "a text": b'"text"',
    "null": b"null",
    "a list": b"[]",
    "nested very deeply": b"[" * 100_000,
    "nested very deeply and closed": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "a body alone": b'{"body":"e30="}',
    "no properties": message("g1", without="properties"),
    "properties a list": message("g2", without="properties")[:-1] + b', "properties": [1]}',
    "properties null": message("g3", without="properties")[:-1] + b', "properties": null}',
    "no delivery tag": message("g4", properties={"delivery_tag": None}),
    "a delivery tag that is a list": message("g5", properties={"delivery_tag": [1]}),
    "no delivery info": message("g6", properties={"delivery_info": None}),
    "delivery info a list": message("g7", properties={"delivery_info": ["exchange", "routing_key"]}),
    "an exchange that is a list": message("g8", properties={"delivery_info": {"exchange": [], "routing_key": []}}),
    "unknown body encoding": message("g9", properties={"body_encoding": "rot13"}),
    "a body encoding that is a list": message("g10", properties={"body_encoding": ["base64"]}),
    "a priority that is a text": message("g11", properties={"priority": "high"}),
    "a reply to that is a list": message("g12", properties={"reply_to": [1]}),
    "bad base64": message("g13", body="!!!"),
    "a body that is a number": message("g14", body=5),
    "a body that is a list": message("g15", body=[1]),
    "a body that is null": message("g16", body=None),
    "no body": message("g17", without="body"),
    "an empty body": message("g18", body=""),
    "a body of protocol 1 that says nothing": message("g19", body="W10=", headers={}),
    "a body of protocol 1 whose task is a list": protocol_1("p1", task=[]),
    "a body of protocol 1 without an id": protocol_1("p2", id=None),
    "a body of protocol 1 whose id is a list": protocol_1("p3", id=[]),
    "a body of protocol 1 whose arguments are numbers": protocol_1("p4", args=5, kwargs=6),
    "a body of protocol 1 with an odd expiry": protocol_1("p5", expires=[], eta=7),
    "a body of protocol 1 with an odd time limit": protocol_1("p6", timelimit="long"),
    "a body of protocol 1 with odd parts": protocol_1("p7", retries="x", taskset=[], chord=5, errbacks=6, utc="x"),
    "unknown content encoding": message("g20", content_encoding="utf-99"),
    "a content encoding that is a list": message("g21", content_encoding=["utf-8"]),
    "unknown content type": message("g22", content_type="application/none"),
    "a content type that is a list": message("g23", content_type=["application/json"]),
    "no content type": message("g24", without="content-type"),
    "headers null": message("g25", headers=None),
    "headers a list": message("g26", headers=[1]),
    "headers a text": message("g27", headers="task"),
    "no headers": message("g28", without="headers"),
    "headers nested very deeply": message("g29", headers={"task": "sample.echo", "id": "g29", "celeriac": 0}).replace(
        b'"celeriac": 0', b'"celeriac": ' + b"[" * 900 + b"]" * 900
    ),
    "a task that is a number": with_header("g30", task=5),
    "a task that is a list": with_header("g31", task=[]),
    "a task that is a mapping": with_header("g32", task={"a": []}),
    "a task that is null": with_header("g33", task=None),
    "a task that is empty": with_header("g34", task=""),
    "a task that nobody knows": with_header("g35", task="sample.nobody"),
    "an id that is a list": with_header("g36", id=[]),
    "an id that is null": with_header("g37", id=None),
    "a root id that is a list": with_header("g38", root_id=[1], parent_id={}),
    "unknown compression": with_header("g39", compression="none such"),
    "a compression that is a list": with_header("g40", compression=[]),
    "an eta that is no time": with_header("g41", eta="tomorrow"),
    "an eta that is a number": with_header("g42", eta=5),
    "an expiry that is no time": with_header("g43", expires="never"),
    "an expiry that is a list": with_header("g44", expires=[]),
    "retries that are a text": with_header("g45", retries="many"),
    "a time limit that is a text": with_header("g46", timelimit="long"),
    "a group that is a list": with_header("g47", group=[1], group_index="x"),
    "our header, a text": with_header("g48", celeriac="none such"),
    "stamped headers that are a number": with_header("g49", stamped_headers=5, stamps={}),
    "stamped headers that are lists": with_header("g51", stamped_headers=[[1]], stamps={}),
    "stamps that are a list": with_header("g52", stamped_headers=["a"], stamps=["a"]),
    "stamps that are missing": with_header("g53", stamped_headers=["a"]),
    "an origin that is a list": with_header("g50", origin=[], shadow={}, lang=5),
}


class Lasting:
    """One worker for every shape; whatever ends it fails its own test alone."""

    def __init__(self, url: str, home: Path) -> None:
        self.url, self.home = url, home
        self.started: list[Worker] = []

    def now(self) -> Worker:
        """The worker that lives; begun anew after a failure."""
        if not self.started or not self.started[-1].alive():
            Post(self.url, QUEUE).client.delete(QUEUE, "unacked", "unacked_index")
            home = self.home / f"garbage-{len(self.started)}"
            home.mkdir()
            self.started.append(Worker(self.url, home, QUEUE, "-P", "threads", "-c", "2"))
            self.started[-1].ready()
        return self.started[-1]


@pytest.fixture(scope="module")
def lasting(store: str, home: Path) -> Iterator[Lasting]:
    """The worker of this module."""
    it = Lasting(store, home)
    yield it
    for worker in it.started:
        worker.close()


@pytest.mark.parametrize("shape", GARBAGE)
def test_garbage_in_a_queue_ends_no_worker(store: str, lasting: Lasting, shape: str) -> None:
    """The same process runs the attempt behind it, and the broker keeps nothing of the garbage."""
    worker, post = lasting.now(), Post(store, QUEUE)
    said = len(worker.text())
    post.client.lpush(QUEUE, GARBAGE[shape])
    id_ = post.send("sample.echo", "after it")
    until(lambda: post.told(id_) or not worker.alive(), "the attempt behind it")
    assert worker.alive(), worker.text()[said:][-6_000:]
    assert post.wait(id_).output == "after it"
    until(lambda: not post.client.llen(QUEUE) and not post.client.hlen("unacked"), "a broker that keeps nothing of it")
