"""What people hand to a client, checked: a namespace, a store, a graph, and what a run is to carry with it."""

from __future__ import annotations

import getpass
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..core.node_verbs import MOST_PRIORITY
from ..errors import InvalidValue, SettingsError, quoted, shown
from ..graph import Graph
from ..graph.limits import MAX_LABELS, Duration, kind_of, name_of, seconds_of

if TYPE_CHECKING:
    from ..settings import Settings

MAX_REASON = 2_000
_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,32}")


def namespace_of(namespace: object) -> str:
    """A namespace: it becomes part of keys."""
    if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
        remedy = "Use up to 32 letters, digits, dots, dashes and underscores"
        raise SettingsError("namespace", f"{shown(namespace)} cannot be one", remedy)
    return namespace


def url_of(settings: Settings | None) -> str:
    """The store of these settings; without one, the embedded Redis that runs for their directory."""
    assert settings is not None  # noqa: S101  the constructor has loaded them
    if settings.redis_url is not None:
        return settings.redis_url
    from ..embedded import running

    url = running(settings.data_dir)
    if url is None:
        raise SettingsError(
            "redis_url",
            f"is not set, and no embedded Redis runs in {settings.data_dir}",
            "Set CELERIAC_REDIS_URL, or start `celeriac up` in this directory",
        )
    return url


def graph_of(graph: object) -> Graph:
    """A graph, whether it was given as one or as a document."""
    if isinstance(graph, Graph):
        return graph
    if isinstance(graph, str | bytes):
        raise InvalidValue(
            "graph", graph, f"is {kind_of(graph)}, not a graph", "Read it with Graph.from_json or Graph.from_yaml."
        )
    return Graph.from_document(graph)


def priority_of(value: object) -> int:
    """A priority, checked."""
    if type(value) is not int or not -MOST_PRIORITY <= value <= MOST_PRIORITY:
        problem = "is out of range" if type(value) is int else f"is {kind_of(value)}"
        raise InvalidValue("priority", value, problem, f"Give a whole number from -{MOST_PRIORITY} to {MOST_PRIORITY}.")
    return value


def facts_of(
    key: object, labels: object, correlation_id: object, deadline: Duration | None, priority: int = 0
) -> dict[str, str | int]:
    """Further fields of the run, checked."""
    facts: dict[str, str | int] = {}
    if key is not None:
        facts["key"] = name_of(key, "key")
    if labels is not None:
        if not isinstance(labels, Mapping):
            raise InvalidValue("labels", labels, f"is not an object but {kind_of(labels)}", 'Write {"name": "text"}.')
        if len(labels) > MAX_LABELS:
            raise InvalidValue(
                "labels", len(labels), f"are more than {MAX_LABELS} labels", "Keep what is searched for."
            )
        checked = {name_of(n, "labels"): name_of(t, f"labels[{quoted(str(n))}]") for n, t in labels.items()}
        facts["labels"] = json.dumps(checked, ensure_ascii=False)
    if correlation_id is not None:
        facts["correlation_id"] = name_of(correlation_id, "correlation_id")
    if deadline is not None:
        facts["deadline_ms"] = max(1, round(seconds_of(deadline, "deadline") * 1000))
    if priority_of(priority):
        facts["priority"] = priority
    return facts


def who_of(by: object) -> str:
    """Who asks: as was said, else the user that this process belongs to; "" when nobody knows."""
    if by is None:
        try:
            return getpass.getuser()
        except (OSError, KeyError):  # a container without a passwd entry; KeyError before Python 3.13
            return ""
    return name_of(by, "by")


def reason_of(value: object) -> str:
    """Why somebody asks for something: any text, up to MAX_REASON characters."""
    if not isinstance(value, str) or len(value) > MAX_REASON:
        problem = "is too long" if isinstance(value, str) else f"is not text but {kind_of(value)}"
        raise InvalidValue("reason", value, problem, f"Write text of at most {MAX_REASON} characters.")
    return value
