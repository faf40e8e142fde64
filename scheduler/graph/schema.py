"""The published JSON Schema (draft 2020-12) of graph documents, for editors and other languages.

Pure. It says of one document what document.py accepts, with numbers and names from the same places; a test
keeps the two equal. What no schema can say (unique keys, references to nodes that exist, cycles, sizes in bytes,
depth, a soft limit below the hard one) is left to `Graph.from_document` and `Graph.compile`.
"""

from __future__ import annotations

from typing import Any

from ..core.expressions.operators import MOST_CHARACTERS
from ..core.ladder import CHANGED, ESCALATE, OTHER
from ..core.mappers import NAME_PATTERN as MAPPER_PATTERN
from ..core.rules import RULE_NAMES
from ..errors import ERROR_KINDS
from ..versions import ASKED
from ..wire import CAPABILITY, CAPABILITY_NAME, TOOL, TOOL_VERSION
from . import limits
from .branching import MAX_BRANCHES, MAX_STOPS, OUTCOMES
from .ladder import DEFAULT_ATTEMPTS, DEFAULT_ON, JITTERS, MAX_QUESTION, MAX_STEPS, MAY_ANSWER, STEP_FIELDS
from .policy import DEFAULT_RETRY, DEFAULT_RULE
from .schema_parts import closed, labels, number, or_null, ref, whole
from .schema_waits import racing_node, timing, waiting_node
from .secret import NAME_PATTERN
from .spec import FORMAT

SCHEMA_ID = "urn:celeriac:graph:1"


def graph_schema() -> dict[str, Any]:
    """The schema as a new dict, to be changed or dumped at will.

    >>> graph_schema()["required"]
    ['celeriac', 'name', 'nodes']
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "celeriac graph",
        "description": "A dependency graph of nodes; each node is run by a Celery worker that has its executor.",
        **closed(
            {
                "celeriac": {"const": FORMAT, "description": "Version of this format."},
                "name": {**ref("name"), "description": "What runs of this graph are called."},
                "nodes": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": limits.MAX_NODES,
                    "items": ref("node"),
                    "description": "In any order; keys must be unique.",
                },
                "returns": {**or_null(ref("name")), "description": "Key of the node whose output is the result."},
                "stops": {
                    "type": "array",
                    "maxItems": MAX_STOPS,
                    "items": _stop(),
                    "description": "Conditions that end the run; what has not begun is skipped then.",
                    "default": [],
                },
                "version": {**or_null(ref("name")), "description": "Of the graph, in your words; runs record it."},
            },
            required=["celeriac", "name", "nodes"],
        ),
        "$defs": {
            "name": {
                "type": "string",
                "minLength": 1,
                "maxLength": limits.MAX_NAME,
                "not": {"pattern": f"[{limits.CONTROL}]"},
                "description": "Any Unicode without control characters; given back exactly.",
            },
            "executor": {
                **ref("name"),
                "if": {"type": "string", "pattern": f"^{CAPABILITY}"},
                "then": {"pattern": f"^{CAPABILITY}{CAPABILITY_NAME}$", "not": {"pattern": r"\n"}},
                "else": {
                    "if": {"type": "string", "pattern": f"^{TOOL}"},
                    "then": {"pattern": f"^{TOOL}{CAPABILITY_NAME}(?:@{TOOL_VERSION})?$", "not": {"pattern": r"\n"}},
                },
            },
            "node": {
                "if": {"type": "object", "required": ["choice"]},
                "then": _choice(),
                "else": {
                    "if": {"type": "object", "required": ["wait"]},
                    "then": waiting_node(),
                    "else": {
                        "if": {"type": "object", "required": ["race"]},
                        "then": racing_node(),
                        "else": _node(),
                    },
                },
            },
            "after": {
                "type": "array",
                "items": {"if": {"type": "object"}, "then": _gate(), "else": ref("name")},
                "description": "Nodes that end first without handing anything over; an object guards the edge.",
                "default": [],
            },
            "condition": {
                "type": "string",
                "minLength": 1,
                "maxLength": MOST_CHARACTERS,
                "description": 'An expression that is true or false: "score.output.value >= 0.8", a subset of CEL.',
            },
            "retry": _retry(),
            "rule": {
                "default": DEFAULT_RULE,
                "anyOf": [
                    {"enum": list(RULE_NAMES)},
                    {"type": "string", "pattern": r"^quorum\([1-9][0-9]{0,6}\)$", "not": {"pattern": r"\n"}},
                ],
            },
            "seconds": number(limits.MIN_SECONDS, limits.MAX_SECONDS),
            "values": {"type": "object", "additionalProperties": ref("value")},
            "value": _value(),
            "reference": _reference(),
            "secret": _secret(),
        },
    }


def _node() -> dict[str, Any]:
    return closed(
        {
            "key": {**ref("name"), "description": "The node's name in this graph."},
            "executor": {
                **ref("executor"),
                "description": "A Celery task, capability:NAME, or tool:NAME@VERSION.",
            },
            "executor_version": or_null(
                {
                    "type": "string",
                    "pattern": f"^{ASKED}$",
                    "not": {"pattern": r"\n"},
                    "description": "The major version of the executor, or a minor one at least; another is refused.",
                }
            ),
            "args": {"type": "array", "items": ref("value"), "default": []},
            "inputs": {**ref("values"), "description": "Arguments by name.", "default": {}},
            "after": ref("after"),
            "trigger_rule": ref("rule"),
            "when": {
                **ref("condition"),
                "description": "Asked when the rule lets the node start.",
            },
            "timing": timing(),
            "retry": ref("retry"),
            "timeout_seconds": {**or_null(ref("seconds")), "description": "Hard limit per attempt."},
            "soft_timeout_seconds": {**or_null(ref("seconds")), "description": "Warning before the hard limit."},
            "queue_class": {**or_null(ref("name")), "description": "Overrides the executor's class."},
            "labels": labels(),
        },
        required=["key", "executor"],
    )


def _choice() -> dict[str, Any]:
    """A node that is no work but a decision."""
    branch = closed({"branch": ref("name"), "when": ref("condition")}, required=["branch", "when"])
    return closed(
        {
            "key": {**ref("name"), "description": "The node's name in this graph."},
            "choice": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_BRANCHES,
                "items": branch,
                "description": "The first branch whose condition is true is taken; names are unique.",
            },
            "otherwise": {**ref("name"), "description": "The branch for when none is true."},
            "after": ref("after"),
            "trigger_rule": ref("rule"),
            "when": ref("condition"),
            "labels": labels(),
        },
        required=["key", "choice", "otherwise"],
    )


def _gate() -> dict[str, Any]:
    """An edge that is not always open."""
    known: dict[str, Any] = {"node": ref("name"), "when": ref("condition"), "branch": ref("name")}
    return {**closed(known, required=["node"]), "oneOf": [{"required": ["when"]}, {"required": ["branch"]}]}


def _stop() -> dict[str, Any]:
    reason = {"anyOf": [ref("name"), {"const": ""}]}
    return closed({"when": ref("condition"), "outcome": {"enum": list(OUTCOMES)}, "reason": reason}, required=["when"])


def _retry() -> dict[str, Any]:
    """Either simply again, or a ladder of steps, which have waits of their own."""
    d = DEFAULT_RETRY
    waits: dict[str, Any] = dict.fromkeys(("base_seconds", "factor", "cap_seconds"), False)
    found = closed(
        {
            "max_attempts": {**whole(1, limits.MAX_ATTEMPTS), "default": d.max_attempts},
            "base_seconds": {**number(0, limits.MAX_SECONDS), "default": d.base_seconds},
            "factor": {**number(1, limits.MAX_FACTOR), "default": d.factor},
            "cap_seconds": {
                **number(0, limits.MAX_SECONDS),
                "default": d.cap_seconds,
                "description": "Not less than base_seconds.",
            },
            "max_losses": {**whole(0, limits.MAX_LOSSES), "default": d.max_losses},
            "steps": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_STEPS,
                "items": {"oneOf": [_step(step) for step in STEP_FIELDS]},
                "description": "What is tried, in order: a node goes down and never back.",
            },
            "never": {**_kinds(frozenset(ERROR_KINDS)), "description": "Errors after which nothing is tried."},
        }
    )
    return {**found, "if": {"type": "object", "required": ["steps"]}, "then": {"properties": waits}}


def _step(step: str) -> dict[str, Any]:
    """One step of a retry ladder."""
    fields: dict[str, Any] = {
        "step": {"const": step},
        "attempts": {**whole(1, limits.MAX_ATTEMPTS), "default": DEFAULT_ATTEMPTS[step]},
        "on": {**_kinds(MAY_ANSWER[step]), "minItems": 1, "default": sorted(DEFAULT_ON[step])},
        "base_seconds": {**number(0, limits.MAX_SECONDS), "default": 1.0},
        "factor": {**number(1, limits.MAX_FACTOR), "default": 2.0},
        "cap_seconds": {**number(0, limits.MAX_SECONDS), "default": 60.0},
        "jitter": {"enum": list(JITTERS), "default": JITTERS[0]},
        "inputs": ref("values"),
        "executor": ref("executor"),
        "queue_class": or_null(ref("name")),
        "timeout_seconds": or_null(ref("seconds")),
        "soft_timeout_seconds": or_null(ref("seconds")),
        "question": {"type": "string", "minLength": 1, "maxLength": MAX_QUESTION, "pattern": r"\S"},
        "to": {"type": "array", "items": ref("name"), "default": []},
    }
    needed = {CHANGED: ["inputs"], OTHER: ["executor"], ESCALATE: ["question"]}.get(step, [])
    if step == CHANGED:
        fields["inputs"] = {**ref("values"), "minProperties": 1}
    return closed({name: fields[name] for name in STEP_FIELDS[step]}, required=["step", *needed])


def _kinds(kinds: frozenset[str]) -> dict[str, Any]:
    return {"type": "array", "items": {"enum": sorted(kinds)}}


def _value() -> dict[str, Any]:
    """A literal, or a reference, at any depth."""
    return {
        "description": 'Any JSON value. {"$ref": key} stands for a node\'s output; {"$secret": name} for a text that '
        'only workers know; {"$literal": {...}} for an object that has such a key itself.',
        "if": {"type": "object", "required": ["$ref"]},
        "then": ref("reference"),
        "else": {
            "if": {"type": "object", "required": ["$literal"]},
            "then": closed({"$literal": {"type": "object"}}),
            "else": {
                "if": {"type": "object", "required": ["$secret"]},
                "then": ref("secret"),
                "else": {"additionalProperties": ref("value"), "items": ref("value")},
            },
        },
    }


def _reference() -> dict[str, Any]:
    return closed(
        {
            "$ref": {**ref("name"), "description": "Key of the node whose output is wanted; makes an edge."},
            "path": {
                "type": "array",
                "maxItems": limits.MAX_PATH,
                "items": {
                    "anyOf": [
                        {"type": "string", "maxLength": limits.MAX_STEP},
                        whole(0, limits.MAX_INDEX),
                    ]
                },
                "default": [],
            },
            "of": {"enum": ["output", "error"], "default": "output"},
            "ancestor": {
                "type": "boolean",
                "default": False,
                "description": "Makes no edge: the node must be an ancestor already.",
            },
            "via": {
                "type": "string",
                "pattern": MAPPER_PATTERN,
                "not": {"pattern": r"\n"},
                "description": "The mapper, with its version, that the value goes through.",
            },
        },
        required=["$ref"],
    )


def _secret() -> dict[str, Any]:
    name = {"type": "string", "pattern": NAME_PATTERN, "not": {"pattern": r"\n"}}
    return closed({"$secret": {**name, "description": "Name of a secret that workers have."}}, required=["$secret"])
