"""Celery signatures as nodes: ``g.add(resize.s("in.png", width=300))``.

Knows a signature by its shape (a dict with the key "task"), so that Celery is not imported. Its args and kwargs
become the node's; `.s` and `.si` mean the same, for a node takes from upstream only what it is handed.

What becomes of its options:

==========================================  ===============================================================
time_limit, soft_time_limit                 honoured: timeout and soft_timeout, unless `add` says otherwise
serializer="json", ignore_result            accepted: messages are JSON, and results are reported anyway
task_id, reply_to, root_id, parent_id,      ignored: Celery's own bookkeeping; attempts have ids of ours
group_id, group_index, replaced_task_nesting
queue, exchange, routing_key, priority      refused: use queue_class=
countdown, eta, expires                     refused: what is not due waits with the scheduler, not in the broker
retry, retry_policy, max_retries            refused: use retry=
link, link_error, chord                     refused: add a node for it; trigger_rule says when it runs
anything else                               refused
==========================================  ===============================================================

Canvas (chain, group, chord, ...) is several nodes, so it is refused here and imported elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import InvalidValue, shown
from .limits import name_of

_IGNORED = frozenset(
    {
        "group_id",
        "group_index",
        "ignore_result",
        "parent_id",
        "replaced_task_nesting",
        "reply_to",
        "root_id",
        "task_id",
    }
)
_CLASS = "Use queue_class= of Graph.add instead; each class has one queue."
_RETRY = "Use retry= of Graph.add instead."
_LINK = 'Add a node for it with after= this one; trigger_rule="one_failed" runs it on failure.'
_LATER = "Leave it out: the scheduler sends a node when it is ready."
_REMEDIES = {
    "queue": _CLASS,
    "exchange": _CLASS,
    "routing_key": _CLASS,
    "priority": _CLASS,
    "retry": _RETRY,
    "retry_policy": _RETRY,
    "max_retries": _RETRY,
    "link": _LINK,
    "link_error": _LINK,
    "chord": _LINK,
    "countdown": _LATER,
    "eta": _LATER,
    "expires": _LATER,
}
_CANVAS = frozenset({"chain", "group", "chord", "xmap", "xstarmap", "chunks", "map", "starmap"})


class Signature(NamedTuple):
    """What a node takes from a signature; limits in seconds, None when it says nothing."""

    executor: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    timeout: float | None
    soft_timeout: float | None


def is_signature(value: object) -> bool:
    """Whether this is a Celery signature, by its shape."""
    return isinstance(value, dict) and "task" in value


def read_signature(value: Mapping[str, Any]) -> Signature:
    """A signature, taken apart.

    Raises:
        InvalidValue: it is canvas, or has an option that cannot be honoured.

    >>> read_signature({"task": "shop.resize", "args": (1,), "kwargs": {}, "options": {"time_limit": 9}}).timeout
    9
    """
    name = name_of(value["task"], 'the "task" of a signature')
    kind = value.get("subtask_type")
    if kind in _CANVAS or name.removeprefix("celery.") in _CANVAS:
        word = kind if isinstance(kind, str) else name
        raise InvalidValue(
            "executor",
            word,
            "is canvas, not one task",
            "Add each of its tasks as a node and hand over handles; canvas is imported separately, as several nodes.",
        )
    options = {k: v for k, v in (value.get("options") or {}).items() if v is not None and k not in _IGNORED}
    timeout = options.pop("time_limit", None)
    soft_timeout = options.pop("soft_time_limit", None)
    if options.get("serializer") == "json":
        del options["serializer"]
    for option, found in options.items():
        if found or option not in ("link", "link_error"):  # Celery leaves empty lists of links behind
            raise InvalidValue(
                f"options of the signature of {shown(name)}: {option}",
                found,
                "cannot be honoured",
                _REMEDIES.get(option, "Leave it out; the scheduler makes the message."),
            )
    return Signature(name, tuple(value.get("args") or ()), value.get("kwargs") or {}, timeout, soft_timeout)
