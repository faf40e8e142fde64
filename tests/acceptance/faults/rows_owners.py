"""Row 16, for schedulers: an owner of shards that is paused past its lease and wakes up in the middle of its work."""

from __future__ import annotations

import time
from typing import Any

from .looking import unharmed
from .rig import Rig, eventually
from .rows import RigFactory, Verdict, row

PAUSES = 6


@row(16, "a scheduler paused past its lease")
def paused(rigs: RigFactory, seed: int) -> Verdict:
    """The other has taken over by then; what the sleeper still commits is refused, and nothing of it shows."""
    with rigs(settings={"CELERIAC_SHARD_LEASE_SECONDS": "1"}) as rig:
        rig.start_all()
        loads = rig.submit_base()
        for turn in range(PAUSES):
            if all(it.done for it in loads):
                break
            name = rig.schedulers[turn % len(rig.schedulers)]
            _await_work(rig)
            rig.freeze(name)
            eventually(lambda: _owners(rig) == 1, "the other owns every shard", 20)
            _await_work(rig)
            rig.thaw(name)
            eventually(lambda: _owners(rig) == 2 or all(it.done for it in loads), "both own shards again", 20)
        rig.wait(loads, 60)
        verdict = rig.judge(loads, most_duplicates=0, settle_seconds=5)
        verdict.facts["commits refused"] = sum(rig.says(it).count("a commit was refused") for it in rig.schedulers)
        return unharmed(rig, verdict)


def _await_work(rig: Rig) -> None:
    """Returns when some more tasks have written, or nothing is left to do."""
    before, until = len(rig.ledger()), time.monotonic() + 2
    while len(rig.ledger()) < before + 40 and time.monotonic() < until:
        time.sleep(0.02)  # between two looks


def _owners(rig: Rig) -> int:
    """How many schedulers own shards by a lease that runs."""
    look: Any = rig.look()
    seconds, _ = look.time()
    lines = [line.decode().split("|", 2) for line in look.hvals("cel:owners")]
    return len({owner for _, lease_end_ms, owner in lines if int(lease_end_ms) > seconds * 1000})
