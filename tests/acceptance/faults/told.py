"""What ledger and system tell of a run, for tests of the checker to plant damage in."""

from __future__ import annotations

from typing import Any

from .checker import Account, Findings, NodeAccount, check
from .ledger import Line
from .plan import Plan


class Told:
    """What ledger and system tell of a run of a plan."""

    plan: Plan
    lines: list[Line]
    nodes: dict[str, NodeAccount]
    outcomes: dict[str, list[str]]
    outputs: dict[str, Any]
    state: str
    ended_ms: dict[str, int]

    def findings(self) -> Findings:
        """All that the checker says."""
        account = Account(self.state, self.nodes, self.outcomes, self.outputs, self.ended_ms)
        return check(self.plan, self.lines, account)

    def found(self) -> list[str]:
        """Violations."""
        return self.findings().violations

    def tried(self, node: str, number: int, **changes: int | str) -> None:
        """Change an attempt in the system's account."""
        it = self.nodes[node]
        changed = it.tries[number]._replace(**changes)  # type: ignore[arg-type]  # names and types are the test's
        self.nodes[node] = it._replace(tries={**it.tries, number: changed})

    def becomes(self, node: str, state: str) -> None:
        """The system tells of another end of a node."""
        self.nodes[node] = self.nodes[node]._replace(state=state)
        self.outcomes[node] = [state]
        if state != "succeeded":
            self.outputs.pop(node, None)
