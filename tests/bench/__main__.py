"""`python -m tests.bench [--json FILE] [--only NAME ...] [--quick]`: everything on one private Redis, in one run.

Prints what was measured, never whether that is good: no figure makes it fail. The whole takes 7 to 10 minutes, --quick
about a minute and a half, with fewer repeats and smaller graphs for Celery.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from . import celery_runs, metg, million, mixed, overload, scaling, sections, turns
from .place import Place
from .sections import Section

ALONE = ("echo", "growth", "idle", "profile", "overload", "scaling", "metg", "mixed", "million")
TURNS = ("chain", "chain-fused", "chain-pure", "fan", "stencil", "diamonds", "diamonds-singly", "flat", "layers-real")
NAMES = (*ALONE, *TURNS, "shipped")
LEFT_OUT = ("flat", "layers-real", "million")
"""Only on request: fan measures what flat does, 100,000 nodes take real workers two minutes a turn, and `million` takes
three minutes for each of its halves, and 1.2 GiB."""


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write {name: value} there")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, smaller graphs")
    parser.add_argument("--repeats", type=int, metavar="N", help="turns of each; 3, with --quick 1")
    parser.add_argument("--nodes", type=int, metavar="N", default=million.NODES, help="of the part `million`")
    asked = parser.parse_args()
    wanted: list[str] = asked.only or [name for name in NAMES if name not in LEFT_OUT]
    repeats = asked.repeats or (1 if asked.quick else 3)
    values = measure(wanted, repeats, quick=asked.quick, nodes=asked.nodes)
    if asked.json is not None:
        asked.json.write_text(json.dumps(values, indent=1) + "\n")
    return 0


def measure(wanted: list[str], repeats: int, *, quick: bool, nodes: int) -> dict[str, float]:
    """Run the wanted parts, print each as it is done; returns all values."""
    values: dict[str, float] = {}
    sizes = turns.QUICK if quick else turns.FULL
    real = [name for name in wanted if name in TURNS]
    with Place() as place:
        packages = ", ".join(f"{name} {version(name)}" for name in ("celery", "kombu", "redis"))
        redis = ".".join(map(str, place.redis.version))
        print(
            f"Python {platform.python_version()}, {packages}, Redis {redis} with AOF everysec, {os.cpu_count()} cores"
        )

        def part(name: str, make: Callable[[], Section]) -> None:
            if name not in wanted and not (name == "turns" and real):
                return
            start, others = time.monotonic(), place.others()
            found = make()
            values.update(found.values)
            foot = f"[{time.monotonic() - start:.0f} s; other processes used {others():.0%} of the cores]"
            print(f"\n## {found.title}\n\n{found.text}\n{foot}", flush=True)

        part("echo", lambda: sections.echo(place, repeats))
        part("growth", lambda: sections.growth(place, repeats))
        part("profile", lambda: sections.profile(place, values.get("scheduler_cpu_us_per_node")))
        part("idle", lambda: sections.idle(place, 20.0))
        part("overload", lambda: overload.overload(place, quick=quick))
        part("scaling", lambda: scaling.scaling(place, min(repeats, 2)))
        part("turns", lambda: turns.turns(place, sizes, real, repeats))
        part("metg", lambda: metg.metg(place, min(repeats, 2), quick=quick))
        part("mixed", lambda: mixed.mixed(place, quick=quick))
        part("million", lambda: million.million(place, nodes))
        part("shipped", lambda: turns.turns(place, sizes, ["flat"], repeats, shipped=True))
        celery_runs.close()
    return values


if __name__ == "__main__":
    sys.exit(main())
