"""What the published schema says of waits: timers, signals, approvals, and the timing of work."""

from __future__ import annotations

from typing import Any

from . import limits
from .branching import MAX_MEMBERS
from .schema_parts import closed, labels, number, or_null, ref, whole
from .waits import MAX_CHOICES, MAX_ESCALATIONS, MAX_QUESTION, MAX_WHO

_JSON_SCHEMA: dict[str, Any] = {"type": ["object", "boolean"], "description": "A JSON Schema without patterns."}
_INSTANT = {"type": "string", "format": "date-time", "description": "ISO 8601 with a zone."}


def timing() -> dict[str, Any]:
    """When work may begin, how long all of it may take, and who ends it."""
    return closed(
        {
            "delay_seconds": {**_seconds(), "description": "Waits so long once its rule lets it start."},
            "not_before": {**_INSTANT, "description": "Waits until then; of both the later counts."},
            "start_timeout_seconds": {**_seconds(), "description": "A worker has begun it so long after it was ready."},
            "total_timeout_seconds": {**_seconds(), "description": "It has ended so long after it was ready first."},
            "silence_seconds": {
                **_seconds(),
                "description": "An attempt says so often that it goes on, or has failed.",
            },
            "expected_seconds": {
                **_seconds(),
                "description": "How long an attempt usually takes; not begun when less is left for the run.",
            },
            "alone": {"type": "boolean", "default": False, "description": "Its attempts share no message with others."},
            "outside": {
                **closed({"within_seconds": _seconds()}),
                "description": "Its worker only begins the job; somebody outside ends it by the attempt's id.",
            },
        }
    )


def waiting_node() -> dict[str, Any]:
    """A node that is no work but a wait."""
    return closed(
        {
            "key": {**ref("name"), "description": "The node's name in this graph."},
            "wait": {
                "type": "object",
                "required": ["kind"],
                "properties": {"kind": {"enum": ["timer", "signal", "approval"]}},
                "oneOf": [_timer(), _signal(), _approval()],
            },
            "inputs": {**ref("values"), "description": "What whoever answers is to see.", "default": {}},
            "after": ref("after"),
            "trigger_rule": ref("rule"),
            "when": ref("condition"),
            "labels": labels(),
        },
        required=["key", "wait"],
    )


def racing_node() -> dict[str, Any]:
    """A node that keeps the first of some others to succeed."""
    members = {"type": "array", "minItems": 1, "maxItems": MAX_MEMBERS, "uniqueItems": True, "items": ref("name")}
    return closed(
        {
            "key": {**ref("name"), "description": "The node's name in this graph."},
            "race": {**members, "description": "Keys of the nodes of which the first to succeed are kept."},
            "keep": {**whole(1, MAX_MEMBERS), "default": 1, "description": "How many of them win."},
            "labels": labels(),
        },
        required=["key", "race"],
    )


def _timer() -> dict[str, Any]:
    known = {"kind": {"const": "timer"}, "seconds": _seconds(), "until": _INSTANT}
    return {**closed(known), "anyOf": [{"required": ["seconds"]}, {"required": ["until"]}]}


def _signal() -> dict[str, Any]:
    known: dict[str, Any] = {
        "kind": {"const": "signal"},
        "name": ref("name"),
        "schema": _JSON_SCHEMA,
        "transient": {"type": "boolean", "default": False, "description": "Lost when nobody waits at that moment."},
        "within_seconds": _seconds(),
        "default": {"description": "Stands for a payload that did not come in time."},
    }
    return {**closed(known, required=["name"]), "dependentRequired": {"default": ["within_seconds"]}}


def _approval() -> dict[str, Any]:
    escalation = closed({"after_seconds": _seconds(), "to": _names(MAX_WHO)}, required=["after_seconds", "to"])
    known: dict[str, Any] = {
        "kind": {"const": "approval"},
        "question": {"type": "string", "minLength": 1, "maxLength": MAX_QUESTION},
        "choices": _names(MAX_CHOICES),
        "form": _JSON_SCHEMA,
        "who": {**_names(MAX_WHO), "description": 'Who may answer; "*" is anybody.'},
        "within_seconds": _seconds(),
        "default": or_null(ref("name")),
        "escalate": {"type": "array", "maxItems": MAX_ESCALATIONS, "items": escalation},
    }
    return {**closed(known, required=["question"]), "dependentRequired": {"default": ["within_seconds"]}}


def _seconds() -> dict[str, Any]:
    return number(limits.MIN_SECONDS, limits.MAX_SECONDS)


def _names(most: int) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "maxItems": most, "uniqueItems": True, "items": ref("name")}
