"""The graphs that are measured, as each node's upstream nodes, in topological order. Nothing of any system."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """One graph: node -> the nodes that it waits for, each a smaller number."""

    name: str
    up: list[list[int]]

    def __len__(self) -> int:
        return len(self.up)


def chain(length: int) -> Shape:
    """Each node waits for the one before."""
    return Shape(f"chain of {length:,}", [[], *([node] for node in range(length - 1))])


def fan(width: int) -> Shape:
    """One node, then `width` of them, then one that waits for all."""
    return Shape(f"1 -> {width:,} -> 1", [[], *([0] for _ in range(width)), list(range(1, width + 1))])


def stencil(rows: int, width: int) -> Shape:
    """Each node waits for its three nearest of the row before, the rows being rings."""
    up: list[list[int]] = [[] for _ in range(width)]
    for row in range(1, rows):
        first = (row - 1) * width
        up += [sorted({first + (at + step) % width for step in (-1, 0, 1)}) for at in range(width)]
    return Shape(f"stencil {rows} x {width}", up)


def diamond() -> Shape:
    """One, two that wait for it, one that waits for both."""
    return Shape("diamond", [[], [0], [0], [1, 2]])


def layers(count: int, width: int) -> Shape:
    """Each node waits for two random nodes of the layer before; the same graph every time."""
    rng = random.Random(count * width)
    up: list[list[int]] = [[] for _ in range(width)]
    for layer in range(1, count):
        before = range((layer - 1) * width, layer * width)
        up += [rng.sample(before, 2) for _ in range(width)]
    return Shape(f"{count:,} layers of {width:,}", up)
