"""How a worker hands what it has taken to its processes."""

from __future__ import annotations

import subprocess
import sys


def test_a_job_is_with_a_process_that_waits_for_it_before_the_loop_turns() -> None:
    """Whole where a pipe takes it so; one for which there is no process waits, and all of them are done in the end."""
    command = [sys.executable, "-m", "tests.acceptance.worker.handed"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    assert len(told) == 8
    assert [line for line in told if not line.endswith(": True")] == []
