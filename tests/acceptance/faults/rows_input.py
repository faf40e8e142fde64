"""Row 29: bad input through the public client and the command line. Only CeleriacErrors, and nothing stored."""

from __future__ import annotations

import json
import math
import random
import string
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from scheduler import CeleriacError, Client, Graph, Retry, RunHandle

from .looking import unharmed
from .rig import Rig, eventually
from .rows import RigFactory, Verdict, row

FUZZ_SECONDS = 60.0
COMMANDS = 25
USAGE, NOT_FOUND, INVALID = 2, 5, 6
TASK = "faults.step"


# --- by hand ----------------------------------------------------------------------------------------------------


def _deep(levels: int) -> Any:
    made: Any = 0
    for _ in range(levels):
        made = [made]
    return made


def _document(**changes: Any) -> dict[str, Any]:
    nodes = [{"key": "a", "executor": TASK}, {"key": "b", "executor": TASK, "after": ["a"]}]
    return {"celeriac": 1, "name": "x", "nodes": nodes} | changes


def _nodes(*nodes: Any) -> dict[str, Any]:
    return _document(nodes=list(nodes))


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
    "JSON 200 deep": lambda: _one(inputs={"x": _deep(200)}),
    "JSON 100,000 deep": lambda: _one(inputs={"x": _deep(100_000)}),
    "a key of a megabyte": lambda: _one(key="k" * 1_000_000),
    "an executor of a megabyte": lambda: _one(executor="e" * 1_000_000),
    "a name with NUL": lambda: _document(name="a\0b"),
    "a key with NUL": lambda: _one(key="a\0b"),
    "a key with half a surrogate": lambda: _one(key="\ud800"),
    "an input of two megabytes": lambda: _one(inputs={"x": "y" * 2_000_000}),
    "an input with NaN": lambda: _one(inputs={"x": math.nan}),
    "an input with half a surrogate": lambda: _one(inputs={"x": "\udfff"}),
    "an input that is a set": lambda: _one(inputs={"x": {1}}),
    "an input that is an object": lambda: _one(inputs={"x": object()}),
    "inputs that are a list": lambda: _one(inputs=[1]),
    "nodes that are a number": lambda: _document(nodes=5),
    "nodes that are null": lambda: _document(nodes=None),
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
        client.submit(_document(), check=False).cancel("it is good, and nothing is refused for another reason")
        longest = 0.0
        for name, make in BAD.items():
            before, began = _stored(rig), time.monotonic()
            verdict.violations += _refused(name, partial(_submit, client, make))
            longest = max(longest, time.monotonic() - began)
            verdict.must(_stored(rig) == before, f"{name}: something was stored")
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


def _stored(rig: Rig) -> set[bytes]:
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


# --- by chance --------------------------------------------------------------------------------------------------

_ODD: tuple[Any, ...] = (
    None, True, -1, 0, 10**30, 1e308, math.inf, math.nan, "", "\0", "\ud800", "a" * 300, "💥", "../..", "{cel:0}:inbox",
    "-inf", [], {}, [[]], {"": ""}, {"$ref": "a"}, {"node": "a"}, b"bytes", {1, 2}, object(), (1,), lambda: None, 2**63,
)  # fmt: skip


def mutated(value: Any, chance: random.Random, depth: int = 0) -> Any:
    """A document with some of its values, keys and shapes changed."""
    if chance.random() < 0.01:
        return chance.choice(_ODD)
    if isinstance(value, dict):
        made = {}
        for key, it in value.items():
            roll = chance.random()
            if roll < 0.03:
                continue
            changed = chance.choice(_ODD) if roll < 0.05 else key
            hashable = changed if isinstance(changed, str | int | float | tuple | None) else key
            made[hashable] = mutated(it, chance, depth + 1)
        if chance.random() < 0.05:
            made["".join(chance.choices(string.printable, k=5))] = chance.choice(_ODD)
        return made
    if isinstance(value, list):
        made_list = [mutated(it, chance, depth + 1) for it in value if chance.random() > 0.02]
        if made_list and chance.random() < 0.05:
            made_list.append(chance.choice(made_list))
        return made_list
    return value


def _seed_document(chance: random.Random) -> dict[str, Any]:
    nodes: list[dict[str, Any]] = []
    for n in range(chance.randint(1, 8)):
        node: dict[str, Any] = {"key": f"n{n}", "executor": TASK, "queue_class": "nowhere"}
        node["inputs"] = {"name": "x", "ms": 1, "deep": _deep(chance.choice((1, 5, 60, 90)))}
        if n:
            node["after"] = [f"n{chance.randrange(n)}"]
        for field, values in {
            "retry": ({"max_attempts": 2}, {"factor": 3}),
            "timeout_seconds": (5, 0.5),
            "trigger_rule": ("all_done", "quorum(1)"),
            "labels": ({"a": "b"},),
        }.items():
            if chance.random() < 0.3:
                node[field] = chance.choice(values)
        nodes.append(node)
    return _document(nodes=nodes)


@row(29, "graphs and calls by chance, for a minute")
def by_chance(rigs: RigFactory, seed: int) -> Verdict:
    """Whatever is handed to the client is taken or refused with a CeleriacError; what is refused stores nothing."""
    verdict = Verdict()
    told: Counter[str] = Counter()
    with rigs(workers=1) as rig:
        rig.start_all()
        client = rig.client()
        until, number = time.monotonic() + FUZZ_SECONDS, 0
        while time.monotonic() < until and len(verdict.violations) < 20:
            number += 1
            chance = random.Random(f"{seed} {number}")
            document = mutated(_seed_document(chance), chance)
            before = _stored(rig)
            try:
                run = _one_way_in(client, document, chance)
            except CeleriacError as refused:
                told[type(refused).__name__] += 1
                verdict.must(_stored(rig) == before, f"case {number}: refused, and something was stored: {refused}")
            except Exception as other:  # noqa: BLE001  exactly that is looked for
                verdict.violations.append(f"case {number}: {type(other).__name__}: {str(other)[:200]}")
            else:
                told["taken"] += run is not None
                if run is not None:
                    run.cancel()
        verdict.violations += _commands(rig, random.Random(seed))
        verdict.facts |= {"cases": number, **dict(told.most_common(4))}
        verdict.must(told["taken"] > number // 20 and len(told) > 3, f"the cases were too much alike: {dict(told)}")
        return unharmed(rig, verdict)


def _one_way_in(client: Client, document: Any, chance: random.Random) -> RunHandle | None:
    """Hand something to the client by one of the ways in."""
    way = chance.randrange(6)
    if way == 0:
        return client.submit(Graph.from_json(_text(document, chance)), check=False)
    if way == 1:
        return client.submit(Graph.from_yaml(_text(document, chance)), check=False)
    odd = chance.choice(_ODD)
    if way == 2:
        return client.submit(document, check=False, key=odd)
    if way == 3:
        return client.submit(document, check=False, deadline=odd, correlation_id=chance.choice(_ODD))
    if way == 4:
        return client.submit(document, check=False, labels=odd)
    return client.submit(document, check=chance.random() < 0.5)


def _text(document: Any, chance: random.Random) -> bytes:
    """As JSON text, with some bytes changed."""
    raw = bytearray(json.dumps(document, default=repr, skipkeys=True).encode("utf-8", "surrogatepass"))
    for _ in range(chance.choice((0, 0, 1, 3))):
        if raw:
            raw[chance.randrange(len(raw))] = chance.randrange(256)
    return bytes(raw)


def _commands(rig: Rig, chance: random.Random) -> Iterator[str]:
    """The command line, handed the same: a message and a status, never a traceback."""
    file = rig.directory / "graph.json"
    for number in range(COMMANDS):
        file.write_bytes(_text(mutated(_seed_document(chance), chance), chance))
        odd = chance.choice(["", "..", "0" * 26, "💥", "-1", "--", "x" * 300, "{cel:0}:inbox", "\x1b[31m"])
        words = chance.choice(
            [
                ["submit", str(file), "--no-check"],
                ["graph", "check", str(file)],
                ["graph", "draw", str(file)],
                ["submit", str(file), "--key", odd],
                ["submit", str(file), "--label", odd],
                ["submit", str(file), "--deadline", odd],
                ["runs", "show", odd],
                ["runs", "cancel", odd],
                ["runs", "watch", odd],
            ]
        )
        done = subprocess.run(
            [sys.executable, "-m", "scheduler.cli", *words],
            env=rig.env(), cwd=rig.directory, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if "Traceback" in done.stderr or done.returncode not in (0, 1, USAGE, NOT_FOUND, INVALID):
            yield f"command {number} {words}: status {done.returncode}: {done.stderr[-300:]}"
