"""What a user writes: a graph, built step by step or read as data; checked, hashed and compiled.

Knows of core only the names of trigger rules, and nothing of Redis or Celery. `builder` makes nodes and edges,
`document` reads and writes JSON and YAML, `spec` gives the canonical form and its hash, `compile` checks the whole and
numbers it, `contracts` compares it with what workers have published.
"""

from __future__ import annotations

from .builder import Graph, Node, Path, Retry
from .capability import Capability, Tool, capability, tool
from .compile import CompiledGraph
from .formulas import Formula, has, size, within
from .handles import Choice, Edge
from .ladder import again, changed, escalate, other
from .secret import Secret
from .timing import Timing

__all__ = [
    "Capability",
    "Choice",
    "CompiledGraph",
    "Edge",
    "Formula",
    "Graph",
    "Node",
    "Path",
    "Retry",
    "Secret",
    "Timing",
    "Tool",
    "again",
    "capability",
    "changed",
    "escalate",
    "has",
    "other",
    "size",
    "tool",
    "within",
]
