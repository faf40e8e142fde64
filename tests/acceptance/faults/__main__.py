"""`python -m tests.acceptance.faults`: the fault table, row by row, with as many seeds as you like."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .jobs import results_of
from .rows import Result, Row, all_rows

HEAD = f"{'row':>3}  {'what is done':<50}  {'seed':>4}  {'s':>5}  {'nodes':>6}  {'starts':>6}  {'dupl.':>5}  violations"


def numbers(text: str) -> list[int]:
    """Comma-separated numbers and ranges.

    >>> numbers("1,3-5")
    [1, 3, 4, 5]
    """
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def chosen(rows: str | None, fast: bool) -> list[Row]:
    """The rows that were asked for."""
    wanted = None if rows is None else set(numbers(rows))
    return [it for it in all_rows() if (wanted is None or it.number in wanted) and (it.fast or not fast)]


def shown(result: Result) -> str:
    """A result as a line of the table, and lines below it for what else there is to say."""
    it = result.verdict
    title = result.row.title if len(result.row.title) <= 50 else result.row.title[:49] + "…"
    line = (
        f"{result.row.number:>3}  {title:<50}  {result.seed:>4}  {result.seconds:>5.1f}  {it.nodes:>6}  {it.starts:>6}"
        f"  {it.duplicates:>5}  {len(it.violations) or '-'}"
    )
    facts = "; ".join(f"{name} {fact}" for name, fact in it.facts.items())
    lines = [line, *([f"     {facts}"] if facts else [])]
    lines += [f"     VIOLATION {violation}" for violation in it.violations[:20]]
    if len(it.violations) > 20:
        lines.append(f"     and {len(it.violations) - 20} more")
    if it.violations:
        lines.append(f"     logs and ledger: {result.directory}")
        lines.append(f"     again: python -m tests.acceptance.faults --rows {result.row.number} --seeds {result.seed}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the table. Exit status 1 when anything was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.faults", description=__doc__)
    parser.add_argument("--rows", metavar="1,4-6", help="numbers of rows; all when not given")
    parser.add_argument("--seeds", default="1", metavar="1-5", help="seeds, one run each [1]")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="rows beside each other [1]")
    parser.add_argument("--fast", action="store_true", help="only the rows that `make test` runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every result there too")
    parser.add_argument("--home", type=Path, metavar="DIRECTORY", help="where failed runs leave their logs")
    parser.add_argument("--keep", action="store_true", help="keep the logs of runs that passed, too")
    parser.add_argument("--bundle-seconds", type=float, metavar="S", help="of work in one message, in every class")
    parser.add_argument("--list", action="store_true", help="tell which rows there are")
    options = parser.parse_args(arguments)
    rows = chosen(options.rows, options.fast)
    if options.list or not rows:
        print("\n".join(f"{it.number:>3}  {it.title}{' (fast)' if it.fast else ''}" for it in all_rows()))
        return 0 if options.list else 2
    home = options.home or Path(tempfile.mkdtemp(prefix="celeriac-faults-"))
    print(HEAD, flush=True)
    results: list[Result] = []
    rigs = {} if options.bundle_seconds is None else {"bundle_seconds": options.bundle_seconds}
    for result in results_of(rows, numbers(options.seeds), home, options.keep, options.jobs, rigs):
        results.append(result)
        print(shown(result), flush=True)
        if options.json:
            options.json.write_text(json.dumps([it.record() for it in results], indent=1, default=str))
    failed = sum(bool(result.verdict.violations) for result in results)
    print(f"{len(results)} runs of {len(rows)} rows, {failed} with violations")
    if not failed and not options.keep and options.home is None:
        shutil.rmtree(home, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
