"""What the test kit says when a test is to fail, or cannot go on.

::

    CeleriacError
    ├── Unscripted          a node was sent, and nothing says how its attempt ends
    ├── Stuck               nothing more can happen, and the run has not ended; `.waits`, `.simulation`
    └── also an AssertionError:
        ├── NotCovered      branches that no simulation took; `.missing`
        ├── ContractFailed  an implementation does not keep a contract; `.problems`
        └── PurityFailed    an executor is not what it declares; `.problem`

They stand here and not in scheduler/errors.py because no process of an installation raises them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import CeleriacError, escaped, shown

if TYPE_CHECKING:
    from .simulation import Simulation

SHOWN_LINES = 50
"""Problems that a message lists; the error's attributes have all."""


class Unscripted(CeleriacError):
    """A node was sent, and nothing says how its attempt ends.

    Attributes:
        node: its key.  executor: what would run it.
    """

    def __init__(self, node: str, executor: str) -> None:
        self.node = node
        self.executor = executor
        super().__init__(
            f"node {shown(node)} was sent to {shown(executor)}, and it has no scripted outcome. Name it in outcomes=, "
            "its executor in executors=, or give a default= for all that is not named"
        )


class Stuck(CeleriacError):
    """Nothing more can happen, and the run has not ended: it waits for somebody whom the script does not have.

    Attributes:
        waits: for what, a sentence for each node that is open and not pending.
        simulation: as far as it came.
    """

    def __init__(self, waits: Sequence[str], simulation: Simulation) -> None:
        self.waits = tuple(waits)
        self.simulation = simulation
        super().__init__(
            f"the run cannot go on: {_lines(self.waits, '; ')}. Script it (signals=, answers=, outcomes=), or say that "
            "the test ends here: may_wait=True"
        )


class NotCovered(CeleriacError, AssertionError):
    """Branches of a graph's policy that no simulation took.

    Attributes:
        missing: in words, in the order of the graph.
    """

    def __init__(self, graph: str, missing: Sequence[str], of: int) -> None:
        self.missing = tuple(missing)
        super().__init__(
            f"{len(self.missing)} of {of} branches of graph {shown(graph)} were not taken:\n  {_lines(self.missing)}"
        )


class ContractFailed(CeleriacError, AssertionError):
    """An implementation does not keep a contract.

    Attributes:
        contract, implementation: their names.  problems: in words, in the order of the cases.
    """

    def __init__(self, contract: str, implementation: str, problems: Sequence[str]) -> None:
        self.contract = contract
        self.implementation = implementation
        self.problems = tuple(problems)
        super().__init__(
            f"{escaped(implementation, 200)} does not keep the contract {shown(contract)}:\n  {_lines(self.problems)}"
        )


class PurityFailed(CeleriacError, AssertionError):
    """An executor is not what it declares.

    Attributes:
        executor: its name.  purity: as declared.  problem: what was seen instead.
    """

    def __init__(self, executor: str, purity: str, problem: str) -> None:
        self.executor = executor
        self.purity = purity
        self.problem = problem
        super().__init__(f"{escaped(executor, 200)} declares purity {purity!r}, and {problem}")


def _lines(found: Sequence[str], between: str = "\n  ") -> str:
    more = [] if len(found) <= SHOWN_LINES else [f"and {len(found) - SHOWN_LINES} more"]
    return between.join([*found[:SHOWN_LINES], *more])
