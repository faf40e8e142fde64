"""Mutants: the product with one thing broken, as processes, and the rows that must see it.

A mutant is a copy of scheduler/ in which one piece of text was replaced; schedulers and workers run the copy, the rows
judge them as ever. A row that stays green on its mutant proves nothing. `make mutants` runs them all with their rows,
and each of these rows once on a copy in which nothing was replaced.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .rig import ROOT, Rig
from .rows import Result, RigFactory, Row, Verdict, all_rows, run_row


@dataclass(frozen=True)
class Mutant:
    """One thing broken.

    Attributes:
        what: is missing or wrong.
        file: below scheduler/.
        old, new: the replacement; `old` must stand there exactly once.
        rows: (number, beginning of the title) of the rows that must turn red.
        nodes: of each graph of the base load; as few as show it.
        seeds: further ones, taken in turn while the row stays green: not every seed of it brings the mishap.
        shows: what a violation must say to count, where the row's fault may turn it red for other reasons too.
        spare: another guard does the same, so that the rows must stay green.
    """

    what: str
    file: str
    old: str
    new: str
    rows: tuple[tuple[int, str], ...]
    nodes: int = 300
    seeds: tuple[int, ...] = ()
    shows: str = ""
    spare: bool = False


NONE = Mutant("nothing is broken", "__init__.py", "", "", ())
NO_CLAIM = Mutant(
    "workers run what they were not granted",
    "worker/claim.py",
    "    if claim.verdict is not Verdict.GRANTED:\n",
    "    if False:\n",
    ((18, "every message"),),
    nodes=100,
)
_TOKEN = 'if redis.call("GET", KEYS[1]) ~= ARGV[1] then return "fenced" end\n'
_COUNT = """if ARGV[2] ~= "" then
  local found, wanted = tonumber(redis.call("GET", KEYS[2]) or "0"), tonumber(ARGV[2])
  if found ~= wanted then return found < wanted and "rewound" or "fenced" end
end
"""
NO_FENCE = Mutant(
    "commits of former owners are accepted",
    "store/lua/commit.lua",
    _TOKEN + _COUNT,
    "",
    ((16, "a scheduler paused"),),
    nodes=500,
    seeds=(2, 3),
)
NO_DEADLINE = Mutant(
    "there is no dispatch deadline",
    "service/dispatch.py",
    "CLAIM_GRACE_MS = 15_000\n",
    "CLAIM_GRACE_MS = 15_000_000\n",
    ((23, "queues"),),
)
MUTANTS = (
    NO_CLAIM,
    NO_FENCE,
    replace(NO_FENCE, what="commits of former owners: the count is left", old=_TOKEN, seeds=(), spare=True),
    replace(NO_FENCE, what="commits of former owners: the token is left", old=_COUNT, seeds=(), spare=True),
    Mutant(
        "a claim is granted while another holds the attempt",
        "store/lua/claim.lua",
        'if status == "c" and string.match(state, "^c|[^|]*|%d+|%d+|%d+|%d+|([^|]*)|") ~= token then',
        "if false then",
        ((18, "every message"),),
    ),
    NO_DEADLINE,
    replace(
        NO_DEADLINE,
        what="there is no dispatch deadline: lost on the way",
        rows=((13, "old connections"),),
        shows="its client was not told of the end",
        seeds=(2, 3, 4, 5, 6),
    ),
    Mutant(
        "reports of past attempts count",
        "core/decide.py",
        "        and attempt == run.attempt[node]\n",
        "",
        ((19, "attempt 1"),),
    ),
    Mutant(
        "reports of other epochs count",
        "core/decide.py",
        "        and epoch == run.epoch[node]\n",
        "",
        ((19, "attempt 1"),),
    ),
    Mutant(
        "malformed messages are not looked at",
        "worker/adopt.py",
        "    guard(task)\n",
        "",
        ((22, "malformed"),),
    ),
    Mutant(
        "losses have no cap",
        "core/decide.py",
        "    if losses > most or run.stopped:\n",
        "    if run.stopped:\n",
        ((21, "a pool process"),),
    ),
    Mutant(
        "leases of what runs are not renewed",
        "worker/heartbeat.py",
        "            answers = store.renew(sorted(active), claimant(self.hostname))\n",
        "            answers = dict.fromkeys(active, True)\n",
        ((27, "attempts of five leases"),),
    ),
    Mutant(
        "shutdowns count as losses",
        "core/retry.py",
        '("NeverClaimed", "WorkerShutdown", "GivenBack", "StoreRewound", BROKEN)',
        '("NeverClaimed", "GivenBack", "StoreRewound", BROKEN)',
        ((26, "cold"),),
    ),
    Mutant(
        "a cancel leaves what is ready",
        "core/verbs.py",
        "        if state < FIRST_ENDED and (node not in running if state in _IN_FLIGHT else node < end):\n",
        "        if state < FIRST_ENDED and state in _IN_FLIGHT and node not in running:\n",
        ((28, "cancels"),),
        nodes=80,
    ),
)


def copied(mutant: Mutant, home: Path) -> Path:
    """A copy of the product with the replacement made; what to put on PYTHONPATH.

    Raises:
        AssertionError: the text that is to be replaced does not stand there exactly once.
    """
    place = home / "mutant"
    shutil.rmtree(place, ignore_errors=True)
    for name in ("scheduler", "config"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    if mutant.old:
        file = place / "scheduler" / mutant.file
        text = file.read_text(encoding="utf-8")
        assert text.count(mutant.old) == 1, (
            f"{mutant.what}: {mutant.file} has {mutant.old!r} {text.count(mutant.old)} times"
        )
        file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    return place


def run_mutant(mutant: Mutant, row: Row, home: Path, seed: int = 1, nodes: int | None = None) -> Result:
    """Run a row with a mutant's processes."""
    path = os.pathsep.join((str(copied(mutant, home)), str(ROOT)))

    def body(rigs: RigFactory, seed: int) -> Verdict:
        def mutated(**wanted: Any) -> Rig:
            return rigs(**{**wanted, "settings": {**(wanted.get("settings") or {}), "PYTHONPATH": path}})

        return row.body(mutated, seed)

    return run_row(Row(row.number, row.title, body), seed, home, options={"nodes": nodes or mutant.nodes})


def tried(mutant: Mutant, row: Row, home: Path, seed: int = 1) -> Result:
    """Run a row with a mutant's processes, with one seed after the other until it sees the mutant."""
    result = run_mutant(mutant, row, home, seed)
    for further in mutant.seeds:
        if not seen(mutant, result):
            result = run_mutant(mutant, row, home, further)
    return result


def rows_of(mutant: Mutant) -> list[Row]:
    """The rows that must see it."""
    found = [
        it for it in all_rows() for number, title in mutant.rows if it.number == number and it.title.startswith(title)
    ]
    assert len(found) == len(mutant.rows), (
        f"{mutant.what}: of the rows {mutant.rows} there are {[str(it) for it in found]}"
    )
    return found


def seen(mutant: Mutant, result: Result) -> list[str]:
    """What the row has against it. A row that broke down itself says nothing, unless it waited in vain."""
    return [
        it
        for it in result.verdict.violations
        if mutant.shows in it and ("the row stumbled" not in it or "AssertionError: not within" in it)
    ]


def main() -> int:
    """Run all of them. Exit status 1 when a row stayed green on a mutant, or turned red on none."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.faults.mutants", description=__doc__)
    parser.add_argument("--only", metavar="TEXT", default="", help="mutants whose description has this text")
    parser.add_argument("--seed", type=int, default=1, help="the first [1]; a few mutants try further ones")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="celeriac-mutants-"))
    wrong = 0
    chosen = [it for it in MUTANTS if options.only in it.what]
    sound: set[tuple[str, int]] = set()
    for mutant in chosen:
        for row in rows_of(mutant):
            if (row.title, mutant.nodes) not in sound:
                wrong += _told(NONE, run_mutant(NONE, row, home, options.seed, mutant.nodes), red=False)
                sound.add((row.title, mutant.nodes))
            wrong += _told(mutant, tried(mutant, row, home, options.seed), red=not mutant.spare)
    shutil.rmtree(home, ignore_errors=True)
    print(f"{len(chosen)} mutants, {wrong} rows not as they should be")
    return 1 if wrong else 0


def _told(mutant: Mutant, result: Result, *, red: bool) -> bool:
    """Print what came of one; whether it is not as it should be."""
    violations = seen(mutant, result) if red else result.verdict.violations
    wrong = bool(violations) is not red
    found = f"{len(violations)} violations" if violations else "green"
    print(
        f"{'WRONG' if wrong else 'ok':5}  {mutant.what:52}  row {result.row!s:60}  seed {result.seed}  "
        f"{result.seconds:5.1f} s  {found}",
        flush=True,
    )
    if violations:
        print(f"       such as: {violations[0][:300]}", flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
