"""Rows one after the other, or several beside each other, each in a process of its own.

They share nothing but the machine. Most of a row is waiting; still, more rows than cores lengthen what a row measures.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from .rows import Result, Row, all_rows, run_row


def results_of(
    rows: Sequence[Row], seeds: Sequence[int], home: Path, keep: bool, jobs: int, options: Mapping[str, Any]
) -> Iterator[Result]:
    """Run every row with every seed, `jobs` at a time; each result as soon as it is there.

    Args:
        options: of every Rig, as for run_row.
    """
    todo = [(it, seed) for seed in seeds for it in rows]
    if jobs == 1:
        yield from (run_row(it, seed, home, keep=keep, options=dict(options)) for it, seed in todo)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        running = {pool.submit(_run, str(it), seed, home, keep, dict(options)): it for it, seed in todo}
        for done in as_completed(running):
            yield replace(done.result(), row=running[done])


def _run(name: str, seed: int, home: Path, keep: bool, options: dict[str, Any]) -> Result:
    """One row in a process of its own; without the row's function, which does not travel."""
    [it] = [row for row in all_rows() if str(row) == name]
    return replace(run_row(it, seed, home, keep=keep, options=options), row=replace(it, body=_elsewhere))


def _elsewhere(*_: object) -> NoReturn:
    raise AssertionError("this row has run in another process")
