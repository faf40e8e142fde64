r"""Graphs as text, Mermaid and Graphviz. Pure; user text is escaped for each of the three.

A graph as text is one block per level, a level being the nodes that could run side by side at best::

    1  front         web.fetch
    2  text          llm.summarise   <- front
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..errors import escaped

if TYPE_CHECKING:
    from ..compile import CompiledGraph

_KEY_CHARACTERS = 60
_SHOWN_UPSTREAM = 8


def levels(graph: CompiledGraph) -> list[list[int]]:
    """Nodes by the length of the longest way that leads to them. O(nodes + edges)."""
    depth: list[int] = []
    found: list[list[int]] = []
    for node, parents in enumerate(graph.upstream):
        depth.append(1 + max((depth[up] for up in parents), default=-1))
        if depth[node] == len(found):
            found.append([])
        found[depth[node]].append(node)
    return found


def text(graph: CompiledGraph) -> str:
    """The graph as lines: level, key, executor, rule if it is not the usual one, upstream."""
    profiles = _profiles(graph)
    keys = [escaped(key, _KEY_CHARACTERS) for key in graph.keys]
    wide = min(max(map(len, keys), default=0), 40)
    executors = [escaped(str(profile["executor"]), _KEY_CHARACTERS) for profile in profiles]
    wide_executor = min(max(map(len, executors), default=0), 40)
    lines = []
    for number, nodes in enumerate(levels(graph), 1):
        for node in nodes:
            up = graph.upstream[node]
            names = ", ".join(keys[it] for it in up[:_SHOWN_UPSTREAM])
            more = f", and {len(up) - _SHOWN_UPSTREAM} more" if len(up) > _SHOWN_UPSTREAM else ""
            rule = profiles[node]["rule"]
            arrow = f"  <- {names}{more}" if up else ""
            shown_rule = "" if rule == "all_success" or not up else f"  [{rule}]"
            lines.append(
                f"{number:>3}  {keys[node]:<{wide}}  {executors[node]:<{wide_executor}}{arrow}{shown_rule}".rstrip()
            )
    return "\n".join(lines)


def mermaid(graph: CompiledGraph) -> str:
    """A Mermaid flowchart; names stand in quotes, with entities for what Mermaid would read."""
    profiles = _profiles(graph)
    lines = ["flowchart TD"]
    for node, key in enumerate(graph.keys):
        lines.append(f'    n{node}["{_for_mermaid(key)}<br/>{_for_mermaid(str(profiles[node]["executor"]))}"]')
    lines += _edges(graph, profiles, lambda up, node, rule: f"    n{up} -->{f'|{_for_mermaid(rule)}|' if rule else ''} n{node}")
    return "\n".join(lines)


def dot(graph: CompiledGraph) -> str:
    """A Graphviz digraph."""
    profiles = _profiles(graph)
    lines = ["digraph {", "    rankdir=LR;", "    node [shape=box];"]
    for node, key in enumerate(graph.keys):
        label = f"{_for_dot(key)}\\n{_for_dot(str(profiles[node]['executor']))}"
        lines.append(f'    n{node} [label="{label}"];')
    lines += _edges(
        graph, profiles, lambda up, node, rule: f"    n{up} -> n{node}{f' [label={chr(34)}{_for_dot(rule)}{chr(34)}]' if rule else ''};"
    )
    return "\n".join([*lines, "}"])


def _profiles(graph: CompiledGraph) -> Sequence[dict[str, object]]:
    profiles: Sequence[dict[str, object]] = graph.header["profiles"]
    return [profiles[number] for number in graph.profile]


def _edges(
    graph: CompiledGraph, profiles: Sequence[dict[str, object]], drawn: Callable[[int, int, str], str]
) -> list[str]:
    return [
        drawn(up, node, "" if profiles[node]["rule"] == "all_success" else str(profiles[node]["rule"]))
        for node, parents in enumerate(graph.upstream)
        for up in parents
    ]


def _for_mermaid(text: str) -> str:
    return "".join(c if c.isalnum() or c in " _.-()/" else f"#{ord(c)};" for c in escaped(text, _KEY_CHARACTERS))


def _for_dot(text: str) -> str:
    return escaped(text, _KEY_CHARACTERS).replace("\\", "\\\\").replace('"', '\\"')
