"""Rows 1 to 8: processes that are killed, one kind at a time and all together."""

from __future__ import annotations

from .rows import RigFactory, Verdict, row


@row(1, "nothing is broken", fast=True)
def row_1(rigs: RigFactory, seed: int) -> Verdict:
    """Each node once, in order."""
    with rigs() as rig:
        rig.start_all()
        loads = rig.submit_base()
        rig.wait(loads, 120)
        return rig.judge(loads, most_duplicates=0)
