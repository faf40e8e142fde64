"""Row 29: bad input through the public client, made by hand. Only CeleriacErrors, and nothing stored."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from scheduler import CeleriacError, Client, Graph, Retry, RunHandle

from .looking import unharmed
from .rig import Rig, eventually
from .rows import RigFactory, Verdict, row

TASK = "faults.step"


def deep(levels: int) -> Any:
    """So many lists in each other."""
    made: Any = 0
    for _ in range(levels):
        made = [made]
    return made


def document(**changes: Any) -> dict[str, Any]:
    """A small graph that is good, but for the changes."""
    nodes = [{"key": "a", "executor": TASK}, {"key": "b", "executor": TASK, "after": ["a"]}]
    return {"celeriac": 1, "name": "x", "nodes": nodes} | changes


def _nodes(*nodes: Any) -> dict[str, Any]:
    return document(nodes=list(nodes))


def _ring(count: int) -> dict[str, Any]:
    return _nodes(*({"key": f"n{n}", "executor": TASK, "after": [f"n{(n + 1) % count}"]} for n in range(count)))


def _one(**fields: Any) -> dict[str, Any]:
    return _nodes({"key": "a", "executor": TASK} | fields)


BAD: dict[str, Callable[[], Any]] = {
    "a cycle of 2": lambda: _ring(2),
    "a cycle of 20,000": lambda: _ring(20_000),
    "itself upstream": lambda: _one(after=["a"]),
    "an unknown parent": lambda: _one(after=["nobody"]),
    "one key twice": lambda: _nodes({"key": "a", "executor": TASK}, {"key": "a", "executor": TASK}),
    "JSON 200 deep": lambda: _one(inputs={"x": deep(200)}),
    "JSON 100,000 deep": lambda: _one(inputs={"x": deep(100_000)}),
    "a key of a megabyte": lambda: _one(key="k" * 1_000_000),
    "an executor of a megabyte": lambda: _one(executor="e" * 1_000_000),
    "a name with NUL": lambda: document(name="a\0b"),
    "a key with NUL": lambda: _one(key="a\0b"),
    "a key with half a surrogate": lambda: _one(key="\ud800"),
    "an input of two megabytes": lambda: _one(inputs={"x": "y" * 2_000_000}),
    "an input with NaN": lambda: _one(inputs={"x": math.nan}),
    "an input with half a surrogate": lambda: _one(inputs={"x": "\udfff"}),
    "an input that is a set": lambda: _one(inputs={"x": {1}}),
    "an input that is an object": lambda: _one(inputs={"x": object()}),
    "inputs that are a list": lambda: _one(inputs=[1]),
    "nodes that are a number": lambda: document(nodes=5),
    "nodes that are null": lambda: document(nodes=None),
    "a node that is a text": lambda: _nodes("a"),
    "a timeout below zero": lambda: _one(timeout_seconds=-1),
    "a timeout of 1e400": lambda: _one(timeout_seconds=1e400),
    "a timeout that is true": lambda: _one(timeout_seconds=True),
    "a retry that is a text": lambda: _one(retry="often"),
    "a rule that is none": lambda: _one(trigger_rule="sometimes"),
    "a field that is none": lambda: _one(colour="red"),
    "null": lambda: None,
    "a number": lambda: 7,
    "a list": list,
    "no fields": dict,
    "text": lambda: "{}",
}


@row(29, "bad graphs and arguments, by hand")
def by_hand(rigs: RigFactory, seed: int) -> Verdict:
    """Each is refused with a CeleriacError within seconds, and leaves nothing; a million edges are no harm."""
    verdict = Verdict()
    with rigs() as rig:
        rig.start_all()
        client = rig.client()
        client.submit(document(), check=False).cancel("it is good, and nothing is refused for another reason")
        longest = 0.0
        for name, make in BAD.items():
            before, began = stored(rig), time.monotonic()
            verdict.violations += _refused(name, partial(_submit, client, make))
            longest = max(longest, time.monotonic() - began)
            verdict.must(stored(rig) == before, f"{name}: something was stored")
        for name, call in _bad_calls(client).items():
            verdict.violations += _refused(name, call)
        verdict.facts |= {"refused": len(BAD), "longest": round(longest, 2)}
        verdict.must(longest < 10, f"one took {longest:.1f} s to be refused")
        began = time.monotonic()
        wide = client.submit(_million_edges(), check=False)
        verdict.facts["a million edges submitted in"] = round(time.monotonic() - began, 1)
        wide.cancel("enough")
        verdict.must(str(wide.wait(60)) == "cancelled", "a run of a million edges could not be cancelled")
        eventually(lambda: rig.alive("s1") and rig.alive("s2"), "the schedulers live")
        return unharmed(rig, verdict)


def _submit(client: Client, make: Callable[[], Any]) -> RunHandle:
    return client.submit(make(), check=False)


def _refused(name: str, call: Callable[[], object]) -> Iterator[str]:
    """What is wrong with how a call was refused."""
    try:
        made = call()
    except CeleriacError as refused:
        if len(str(refused)) > 5000:
            yield f"{name}: the message has {len(str(refused))} characters"
    except Exception as other:  # noqa: BLE001  exactly that is looked for
        yield f"{name}: {type(other).__name__} instead of a CeleriacError: {str(other)[:200]}"
    else:
        yield f"{name}: was not refused, but answered with {made!r}"


def stored(rig: Rig) -> set[bytes]:
    """Runs, and pages of graphs that were staged: what a submit leaves."""
    look: Any = rig.look()
    found: set[bytes] = set(look.scan_iter("{cel:*}:run:*", 1000))
    return {key for key in found if key.count(b":") == 3 or b":spec:" in key}


def _bad_calls(client: Client) -> dict[str, Callable[[], object]]:
    good = Graph("x")
    good.add(TASK, key="a")
    nowhere = client.run("0" * 26)
    return {
        "a run id that is none": lambda: client.run("../../etc"),
        "a run id with NUL": lambda: client.run("\0" * 26),
        "a run id that is null": lambda: client.run(None),  # type: ignore[arg-type]  # as somebody may do
        "a run that is not there": lambda: nowhere.state,
        "a cancel of it": lambda: nowhere.cancel("x"),
        "a cancel with a number": lambda: nowhere.cancel(5),  # type: ignore[arg-type]  # as somebody may do
        "a cancel with a megabyte": lambda: nowhere.cancel("x" * 1_000_000),
        "a retry of it": lambda: nowhere.retry("x", timeout=5),
        "a wait with a text": lambda: nowhere.wait("soon"),
        "a wait below zero": lambda: nowhere.wait(-1),
        "a wait of NaN": lambda: nowhere.wait(math.nan),
        "a node of it": lambda: nowhere.get("a", timeout=5),
        "a key with NUL": lambda: client.submit(good, key="a\0", check=False),
        "a key of a megabyte": lambda: client.submit(good, key="k" * 1_000_000, check=False),
        "a key that is a number": lambda: client.submit(good, key=5, check=False),  # type: ignore[arg-type]  # the same
        "an empty key": lambda: client.submit(good, key="", check=False),
        "labels that are a list": lambda: client.submit(good, labels=["a"], check=False),  # type: ignore[arg-type]  # the same
        "a label with a number": lambda: client.submit(good, labels={"a": 1}, check=False),  # type: ignore[dict-item]  # the same
        "a thousand labels": lambda: client.submit(good, labels={f"l{n}": "x" for n in range(1000)}, check=False),
        "a deadline that is a word": lambda: client.submit(good, deadline="tomorrow", check=False),
        "a deadline below zero": lambda: client.submit(good, deadline=-5, check=False),
        "a correlation id with NUL": lambda: client.submit(good, correlation_id="\0", check=False),
        "retries below zero": lambda: Retry(-1),
        "retries of a text": lambda: Retry("3"),  # type: ignore[arg-type]  # the same
    }


def _million_edges() -> Graph:
    graph = Graph("wide", queue_class="work")
    first = [graph.add(TASK, key=f"a{n}", name="a", ms=1) for n in range(1000)]
    for n in range(1000):
        graph.add(TASK, key=f"b{n}", name="b", ms=1, after=first)
    return graph
