"""`celeriac demo ...` as people start it, in a directory of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .stack import ROOT

COMMAND = [sys.executable, "-m", "scheduler.cli", "demo"]


def environment(directory: Path, **more: str) -> dict[str, str]:
    """Ours, with a temporary directory of its own, so that what is left behind can be seen."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CELERIAC_")}
    (directory / "tmp").mkdir()
    return {**kept, "TMPDIR": str(directory / "tmp"), **more}


def demo(directory: Path, *options: str, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs it to its end."""
    return subprocess.run(
        [*COMMAND, *options],
        cwd=cwd,
        env=environment(directory, **more),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        stdin=subprocess.DEVNULL,
    )
