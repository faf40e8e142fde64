"""Facts in words, for people: what client/explain.py tells beside the values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..core.facts import STATES, Fact
from ..errors import escaped, shown
from .views import cause_text


def words_of(fact: Fact, key: str | None, *, own: bool) -> str:
    """A fact in words.

    Args:
        key: of the node that it is about.
        own: it is the node that is explained.
    """
    name, what, value = shown(key or "", 60), fact.what, fact.value
    if what == "state":
        return f"it was {value}" if own else cause_text(key or "", STATES[value])
    if what in ("output", "error"):
        path = "".join(f".{it}" if isinstance(it, str) else f"[{it}]" for it in fact.path)
        return f"{name} {what}{escaped(path, 100)} = {escaped(json.dumps(value, ensure_ascii=False), 200)}"
    if what == "policy":
        return f"the run had policy {escaped(str(value.get('version')), 100)}"
    if what == "report":
        return _report_words(value)
    if what == "asked":
        said = ", ".join(f"{field} {escaped(str(value[field]), 200)}" for field in ("reason", "by") if value.get(field))
        return f"{value.get('event')}{f': {said}' if said else ''}"
    return _PLAIN[what].format(name=name, value=escaped(str(value), 300)) if what in _PLAIN else f"{what} {value}"


_PLAIN = {
    "closed": "the edge from {name} is closed",
    "stood": "{name} was {value}",
    "attempts": "{name} was at attempt {value}",
    "ready": "attempt {value} was ready",
    "dispatched": "attempt {value} was sent",
    "waits": "attempt {value} had failed and another was to come",
    "parked": "it waited without a worker, since {value} ms after the run's start",
    "handed": "the job of attempt {value} was begun, and somebody outside was to end it",
    "signal": "a signal of that name had come before",
    "rung": "it stood on its ladder at {value}: the step, counted from 0, and the failures by then",
    "failure": "attempt {value} had failed",
    "loss": "attempt {value} had been lost",
    "excused": "attempt {value} was never claimed, or shut down with its worker",
    "reopened": "{name} was opened again",
    "run": "the run was {value}",
    "stopped": "the run had {value}",
}


def _report_words(event: Mapping[str, Any]) -> str:
    """A report, or the end of a lease."""
    if event.get("event") != "Reported":
        claimed = event.get("claimed_at_ms") is not None
        return (
            f"nothing was heard of worker {escaped(str(event.get('worker')), 100)}"
            if claimed
            else "no worker claimed it"
        )
    error = event.get("error") or {}
    said = f": {error.get('kind')}, {error.get('type')}: {error.get('message')}" if error else ""
    where = f" on {event['worker']}" if event.get("worker") else ""
    return escaped(f"attempt {event.get('attempt')} {event.get('end')}{where}{said}", 500)
