"""Row 29: bad input by chance, through client and command line. Only CeleriacErrors, and nothing stored."""

from __future__ import annotations

import json
import math
import random
import string
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from scheduler import CeleriacError, Client, Graph, RunHandle

from .looking import unharmed
from .rig import Rig
from .rows import RigFactory, Verdict, row
from .rows_input import TASK, deep, stored
from .rows_input import document as good_document

FUZZ_SECONDS = 60.0
COMMANDS = 25
USAGE, NOT_FOUND, INVALID = 2, 5, 6

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
        node["inputs"] = {"name": "x", "ms": 1, "deep": deep(chance.choice((1, 5, 60, 90)))}
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
    return good_document(nodes=nodes)


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
            before = stored(rig)
            try:
                run = _one_way_in(client, document, chance)
            except CeleriacError as refused:
                told[type(refused).__name__] += 1
                verdict.must(stored(rig) == before, f"case {number}: refused, and something was stored: {refused}")
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
