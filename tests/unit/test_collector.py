"""The collector of garbage: what a process has at its start is put aside, and whoever has set it keeps his word."""

from __future__ import annotations

import subprocess
import sys

import pytest

from scheduler.collector import YOUNG

SPARED = """
import gc
{before}
from scheduler.{module} import {name} as ready
ready()
print(gc.get_threshold()[0], gc.get_freeze_count())
"""


def spared(before: str, module: str = "collector", name: str = "spare") -> tuple[int, int]:
    """Containers after which a fresh process looks at the young, and how many it has put aside, once it is ready."""
    code = SPARED.format(before=before, module=module, name=name)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return int(said[0]), int(said[1])


@pytest.mark.parametrize(
    ("before", "young"),
    [("pass", YOUNG), ("gc.set_threshold(1_000_000)", 1_000_000), ("gc.set_threshold(0)", 0), ("gc.disable()", YOUNG)],
)
def test_what_stands_is_put_aside_and_a_choice_is_kept(before: str, young: int) -> None:
    """Modules are no more looked through; more than ours, or none at all, stays as its owner has set it."""
    found, aside = spared(before)
    assert found == young
    assert aside > 1_000


def test_pool_processes_put_aside_what_they_have_inherited() -> None:
    """A pool process forks before its worker is ready, so it does so itself: all of Celery is there by then."""
    found, aside = spared("pass", "worker.install", "_on_pool_process")
    assert found == YOUNG
    assert aside > 20_000
