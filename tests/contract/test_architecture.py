"""ARCHITECTURE.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from scheduler.core.states import MOVES, NodeState

ROOT = Path(__file__).parents[2]


def diagram() -> str:
    """The table of moves as a Mermaid state diagram, one line for each pair of states."""
    lines = ["stateDiagram-v2", "    [*] --> pending"]
    for kind, (froms, to) in MOVES.items():
        lines += [f"    {state.word} --> {to.word}: {kind.word}" for state in sorted(froms)]
    lines += [f"    {state.word} --> [*]" for state in NodeState if state >= NodeState.SUCCEEDED]
    return "\n".join(lines)


def test_the_state_diagram_is_the_table_of_moves() -> None:
    """Whoever reads the diagram sees every legal move and no other."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    found = re.search(r"```mermaid\n(.*?)\n```\n<!-- /states -->", text, re.DOTALL)
    assert found is not None
    assert found[1] == diagram(), f"put this into ARCHITECTURE.md:\n{diagram()}"


def test_every_file_that_it_names_is_there() -> None:
    """No room is described that does not exist."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    named = set(re.findall(r"`([a-z_]+/[a-z_/]+\.(?:py|lua))`", text))
    bases = ("", "scheduler", "scheduler/store")
    missing = [it for it in named if not any((ROOT / base / it).exists() for base in bases)]
    assert not missing
