r"""Graphs as text, Mermaid and Graphviz. Pure; user text is escaped for each of the three.

A graph as text is one block per level, a level being the nodes that could run side by side at best::

    1  front         web.fetch
    2  text          llm.summarise   <- front
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..core.run import Run
from ..errors import escaped

if TYPE_CHECKING:
    from ..graph.compile import CompiledGraph

_KEY_CHARACTERS = 60
_SHOWN_UPSTREAM = 8
_USUAL_RULE = "all_success"


def shape_of(graph: CompiledGraph) -> Run:
    """A compiled graph as the core reads it, of which nothing has run."""
    return Run.load("", graph.header, graph.pages(), created_at_ms=0)


def levels(shape: Run) -> list[list[int]]:
    """Nodes by the length of the longest way that leads to them. O(nodes + edges)."""
    depth: list[int] = []
    found: list[list[int]] = []
    for node in range(shape.n):
        depth.append(1 + max((depth[up] for up in shape.upstream(node)), default=-1))
        if depth[node] == len(found):
            found.append([])
        found[depth[node]].append(node)
    return found


def text(shape: Run) -> str:
    """The graph as lines: level, key, executor, upstream, and the rule if it is not the usual one."""
    keys = [escaped(key, _KEY_CHARACTERS) for key in shape.keys]
    executors = [escaped(it.executor, _KEY_CHARACTERS) for it in shape.profiles]
    wide, wide_executor = (min(max(map(len, names), default=0), 40) for names in (keys, executors))
    lines = []
    for number, nodes in enumerate(levels(shape), 1):
        for node in nodes:
            line = f"{number:>3}  {keys[node]:<{wide}}  {executors[shape.profile[node]]:<{wide_executor}}"
            up = shape.upstream(node)
            if up:
                more = f", and {len(up) - _SHOWN_UPSTREAM} more" if len(up) > _SHOWN_UPSTREAM else ""
                line += f"  <- {', '.join(keys[it] for it in up[:_SHOWN_UPSTREAM])}{more}"
            rule = _rule(shape, node)
            lines.append((f"{line}  [{rule}]" if rule else line).rstrip())
    return "\n".join(lines)


def mermaid(shape: Run) -> str:
    """A Mermaid flowchart; names stand in quotes, with entities for what Mermaid would read."""
    lines = ["flowchart TD"]
    for node, key in enumerate(shape.keys):
        executor = shape.profiles[shape.profile[node]].executor
        lines.append(f'    n{node}["{_for_mermaid(key)}<br/>{_for_mermaid(executor)}"]')

    def edge(up: int, node: int, rule: str) -> str:
        return f"    n{up} -->|{_for_mermaid(rule)}| n{node}" if rule else f"    n{up} --> n{node}"

    return "\n".join([*lines, *_edges(shape, edge)])


def dot(shape: Run) -> str:
    """A Graphviz digraph."""
    lines = ["digraph {", "    rankdir=LR;", "    node [shape=box];"]
    for node, key in enumerate(shape.keys):
        label = f"{_for_dot(key)}\\n{_for_dot(shape.profiles[shape.profile[node]].executor)}"
        lines.append(f'    n{node} [label="{label}"];')

    def edge(up: int, node: int, rule: str) -> str:
        return f'    n{up} -> n{node} [label="{_for_dot(rule)}"];' if rule else f"    n{up} -> n{node};"

    return "\n".join([*lines, *_edges(shape, edge), "}"])


def _edges(shape: Run, drawn: Callable[[int, int, str], str]) -> list[str]:
    return [drawn(up, node, _rule(shape, node)) for node in range(shape.n) for up in shape.upstream(node)]


def _rule(shape: Run, node: int) -> str:
    """The trigger rule where it is worth a word."""
    rule = shape.profiles[shape.profile[node]].rule.name
    return "" if rule == _USUAL_RULE or not shape.upstream(node) else rule


def _for_mermaid(text: str) -> str:
    return "".join(c if c.isalnum() or c in " _.-()/" else f"#{ord(c)};" for c in escaped(text, _KEY_CHARACTERS))


def _for_dot(text: str) -> str:
    return escaped(text, _KEY_CHARACTERS).replace("\\", "\\\\").replace('"', '\\"')
