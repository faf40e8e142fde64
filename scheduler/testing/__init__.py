"""For your tests: graphs without workers, and executors without a scheduler.

    from scheduler.testing import Coverage, Fails, simulate

    coverage = Coverage(g)
    played = coverage.simulate({"score": {"value": 0.4}, "draft": [Fails("timeout"), "text"]})
    assert played.states["publish"] == "skipped"
    coverage.check()  # an AssertionError that names every branch of the policy that no simulation took

`simulate` runs a graph through the scheduler's own core with scripted outcomes; `Coverage` says which branches were
taken; `Contract` tries implementations of one executor against the same cases; `check_purity` runs an executor twice
and looks whether it is what it declares. Nothing here is imported by any other room.
"""

from __future__ import annotations

from .contract import Case, Contract, ContractReport
from .coverage import Coverage
from .errors import ContractFailed, NotCovered, PurityFailed, Stuck, Unscripted
from .outcomes import HANGS, UNCLAIMED, Call, Fails, Returns, Takes
from .purity import PurityReport, check_purity
from .script import Answer, Signal
from .simulate import simulate
from .simulation import Line, Simulation

__all__ = [
    "HANGS",
    "UNCLAIMED",
    "Answer",
    "Call",
    "Case",
    "Contract",
    "ContractFailed",
    "ContractReport",
    "Coverage",
    "Fails",
    "Line",
    "NotCovered",
    "PurityFailed",
    "PurityReport",
    "Returns",
    "Signal",
    "Simulation",
    "Stuck",
    "Takes",
    "Unscripted",
    "check_purity",
    "simulate",
]
