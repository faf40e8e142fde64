r"""Graphs as text, Mermaid and Graphviz. Pure; user text is escaped for each of the three.

A graph as text is one block per level, a level being the nodes that could run side by side at best. Decisions look
different from work: a choice stands behind a `?` or in a diamond, and what guards a node or an edge is written at it::

    1  front         web.fetch
    2  text          llm.summarise   <- front
    3  ? route       choice          <- text
    4  praise        mail.send       <- route (good)

Of a run, each node has its state beside it, and an edge that was closed is told from one that is open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..core.run import Run, work_of
from ..errors import escaped

if TYPE_CHECKING:
    from ..graph.compile import CompiledGraph

_KEY_CHARACTERS = 60
_GUARD_CHARACTERS = 120
_SHOWN_UPSTREAM = 8
_USUAL_RULE = "all_success"
_WIDEST_STATE = len("upstream_failed")
_COLOURS = {
    "succeeded": "#a6e3a1",
    "failed": "#f38ba8",
    "upstream_failed": "#f5c2c7",
    "cancelled": "#d0bfff",
    "skipped": "#dee2e6",
    "running": "#99e9f2",
    "dispatched": "#c5f6fa",
    "ready": "#fff3bf",
    "waiting": "#ffe066",
}
"""State -> fill; pending nodes have none."""


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


def text(shape: Run, states: Sequence[str] = ()) -> str:
    """The graph as lines: level, key, executor, upstream, and the rule if it is not the usual one.

    Args:
        states: of a run's nodes, in a word each; none for a graph.
    """
    keys = [escaped(key, _KEY_CHARACTERS) for key in shape.keys]
    keys = [f"? {key}" if is_decision(shape, node) else key for node, key in enumerate(keys)]
    executors = [escaped(work_of(shape, node), _KEY_CHARACTERS) for node in range(shape.n)]
    wide, wide_executor = (min(max(map(len, names), default=0), 40) for names in (keys, executors))
    lines = []
    for number, nodes in enumerate(levels(shape), 1):
        for node in nodes:
            line = f"{number:>3}  {keys[node]:<{wide}}  {executors[node]:<{wide_executor}}"
            line += f"  {states[node]:<{_WIDEST_STATE}}" if states else ""
            up = shape.upstream(node)
            if up:
                more = f", and {len(up) - _SHOWN_UPSTREAM} more" if len(up) > _SHOWN_UPSTREAM else ""
                names = (
                    _with_gate(keys[it].removeprefix("? "), _gate(shape, it, node), closed=_closed(shape, it, node))
                    for it in up[:_SHOWN_UPSTREAM]
                )
                line += f"  <- {', '.join(names)}{more}"
            rule, guard = _rule(shape, node), _guard(shape, node)
            line += f"  [{rule}]" if rule else ""
            lines.append((f"{line}  when {guard}" if guard else line).rstrip())
    stops = () if shape.guards is None else shape.guards.stops
    lines += [f"stops when {escaped(it.when.text, _GUARD_CHARACTERS)}: {it.outcome}" for it in stops]
    return "\n".join(lines)


def is_decision(shape: Run, node: int) -> bool:
    """Whether a node is no work but a decision: a choice, or somebody's."""
    guards = shape.guards
    return guards is not None and (
        node in guards.choices or (node in guards.waits and guards.waits[node].kind == "approval")
    )


def _gate(shape: Run, up: int, node: int) -> str:
    """What must hold for an edge to be open, "" for nothing."""
    gate = None if shape.guards is None else shape.guards.gates.get(up, {}).get(node)
    if gate is None:
        return ""
    return escaped(str(gate.branch) if gate.when is None else gate.when.text, _GUARD_CHARACTERS)


def _guard(shape: Run, node: int) -> str:
    """The condition of a node, or what a choice asks, "" for nothing."""
    guards = shape.guards
    if guards is None:
        return ""
    said = [guards.when[node].text] if node in guards.when else []
    if (choice := guards.choices.get(node)) is not None:
        said += [f"{name}: {when.text}" for name, when in choice.branches]
    if (wait := guards.waits.get(node)) is not None and wait.question:
        said.append(wait.question)
    return escaped("; ".join(said), _GUARD_CHARACTERS)


def _closed(shape: Run, up: int, node: int) -> bool:
    """Whether an edge of a run was closed."""
    return node in shape.closed.get(up, ())


def _with_gate(key: str, gate: str, *, closed: bool) -> str:
    said = "; ".join(it for it in (gate, "closed" if closed else "") if it)
    return f"{key} ({said})" if said else key


def mermaid(shape: Run, states: Sequence[str] = ()) -> str:
    """A Mermaid flowchart; names stand in quotes, with entities for what Mermaid would read."""
    lines = ["flowchart TD"]
    for node, key in enumerate(shape.keys):
        what, guard = work_of(shape, node), _guard(shape, node)
        state = states[node] if states else ""
        label = "<br/>".join(_for_mermaid(it) for it in (key, what, f"when {guard}" if guard else "", state) if it)
        drawn = f'{{"{label}"}}' if is_decision(shape, node) else f'["{label}"]'
        lines.append(f"    n{node}{drawn}{f':::{state}' if state else ''}")

    def edge(up: int, node: int, rule: str) -> str:
        arrow = "-.->" if _closed(shape, up, node) else "-->"
        return f"    n{up} {arrow}|{_for_mermaid(rule)}| n{node}" if rule else f"    n{up} {arrow} n{node}"

    classes = [f"    classDef {it} fill:{_COLOURS[it]},color:#000" for it in dict.fromkeys(states) if it in _COLOURS]
    return "\n".join([*lines, *_edges(shape, edge), *classes])


def dot(shape: Run, states: Sequence[str] = ()) -> str:
    """A Graphviz digraph."""
    lines = ["digraph {", "    rankdir=LR;", "    node [shape=box];"]
    for node, key in enumerate(shape.keys):
        what, guard = work_of(shape, node), _guard(shape, node)
        state = states[node] if states else ""
        label = "\\n".join(_for_dot(it) for it in (key, what, f"when {guard}" if guard else "", state) if it)
        colour = f', style=filled, fillcolor="{_COLOURS[state]}"' if state in _COLOURS else ""
        lines.append(f'    n{node} [label="{label}"{", shape=diamond" if is_decision(shape, node) else ""}{colour}];')

    def edge(up: int, node: int, rule: str) -> str:
        said = [f'label="{_for_dot(rule)}"'] if rule else []
        said += ["style=dashed"] if _closed(shape, up, node) else []
        return f"    n{up} -> n{node} [{', '.join(said)}];" if said else f"    n{up} -> n{node};"

    return "\n".join([*lines, *_edges(shape, edge), "}"])


def _edges(shape: Run, drawn: Callable[[int, int, str], str]) -> list[str]:
    return [
        drawn(up, node, ", ".join(it for it in (_gate(shape, up, node), _rule(shape, node)) if it))
        for node in range(shape.n)
        for up in shape.upstream(node)
    ]


def _rule(shape: Run, node: int) -> str:
    """The trigger rule where it is worth a word."""
    rule = shape.profiles[shape.profile[node]].rule.name
    return "" if rule == _USUAL_RULE or not shape.upstream(node) else rule


def _for_mermaid(text: str) -> str:
    return "".join(c if c.isalnum() or c in " _.-()/" else f"#{ord(c)};" for c in escaped(text, _KEY_CHARACTERS))


def _for_dot(text: str) -> str:
    return escaped(text, _KEY_CHARACTERS).replace("\\", "\\\\").replace('"', '\\"')
