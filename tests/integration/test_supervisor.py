"""The supervisor with real children: they are heard, started again, ended in order, and never outlive it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from scheduler.cli.supervisor import TRIES, Supervisor

ROOT = Path(__file__).parents[2]
SLEEPER = "import time\nprint('up', flush=True)\ntime.sleep(600)"
STUBBORN = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)"


def python(script: str) -> list[str]:
    """A child that runs a script."""
    return [sys.executable, "-c", script]


class Heard:
    """What children said, and who waits for what."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.do: Callable[[str, str], None] = lambda _child, _line: None

    def __call__(self, child: str, line: str) -> None:
        self.lines.append((child, line))
        self.do(child, line)


def interrupt() -> None:
    """What Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def _safety() -> Iterator[None]:
    """A test that goes wrong must not wait for ever: the guard interrupts it."""
    guard = threading.Timer(60, interrupt)
    guard.daemon = True
    guard.start()
    yield
    guard.cancel()


def test_lines_are_passed_on_and_an_ended_child_is_started_again() -> None:
    """Until we are asked to stop; then nothing is left."""
    heard = Heard()
    heard.do = lambda _child, line: interrupt() if sum(it[1] == "hello" for it in heard.lines) == 2 else None
    supervisor = Supervisor(heard)
    supervisor.start("one", python("print('hello')\nprint('no line end', end='')"), os.environ)
    assert supervisor.keep_going()
    supervisor.stop()
    assert heard.lines.count(("one", "hello")) == 2
    assert ("one", "no line end") in heard.lines
    assert any("started again" in line for _, line in heard.lines)
    assert len(supervisor.ended()) == 1


def test_a_child_that_cannot_live_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many short lives in a row, each a little later than the one before."""
    monkeypatch.setattr("scheduler.cli.supervisor._LOOK_SECONDS", 0.02)
    clock = Fast(time.monotonic, 40)
    monkeypatch.setattr("scheduler.cli.supervisor.time.monotonic", clock)
    monkeypatch.setattr("scheduler.cli.supervisor.STEADY_SECONDS", 400.0)
    heard = Heard()
    supervisor = Supervisor(heard)
    supervisor.start("one", python("raise SystemExit(3)"), os.environ)
    assert supervisor.keep_going() is False
    supervisor.stop()
    assert sum("ended with status 3" in line for _, line in heard.lines) == TRIES - 1
    assert "giving up" in heard.lines[-1][1]


class Fast:
    """A clock that runs faster than the real one."""

    def __init__(self, real: Callable[[], float], times: float) -> None:
        self.real, self.times, self.start = real, times, real()

    def __call__(self) -> float:
        return self.start + (self.real() - self.start) * self.times


def test_higher_stages_end_first() -> None:
    """Workers may still report while the scheduler lives."""
    heard = Heard()
    heard.do = lambda _child, line: interrupt() if len(heard.lines) == 2 else None
    bye = "import signal, sys, time\nsignal.signal(15, lambda *_: (print('bye', flush=True), sys.exit(0)))\n" + SLEEPER
    supervisor = Supervisor(heard)
    supervisor.start("scheduler", python(bye), os.environ, stage=1)
    supervisor.start("worker", python(bye), os.environ, stage=2)
    assert supervisor.keep_going()
    supervisor.stop()
    assert [it for it in heard.lines if it[1] == "bye"] == [("worker", "bye"), ("scheduler", "bye")]


def test_a_stubborn_child_is_killed_after_its_grace_with_all_it_started() -> None:
    """SIGTERM, the grace, then SIGKILL to the group that it leads."""
    heard = Heard()
    script = (
        "import signal, subprocess, sys, time\nsignal.signal(15, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\ntime.sleep(600)"
    )
    heard.do = lambda _child, line: interrupt() if line.isdigit() else None
    supervisor = Supervisor(heard)
    supervisor.start("one", python(script), os.environ, grace_seconds=0.3)
    assert supervisor.keep_going()
    grandchild = psutil.Process(int(heard.lines[0][1]))
    supervisor.stop()
    assert ("one", "did not end in time and is killed") in heard.lines
    grandchild.wait(10)


def test_a_second_signal_means_at_once() -> None:
    """Nobody waits for a grace of ten minutes after pressing Ctrl-C twice."""
    heard = Heard()
    heard.do = lambda _child, line: interrupt() if line == "up" else None
    supervisor = Supervisor(heard)
    supervisor.start("one", python(STUBBORN), os.environ, grace_seconds=600)
    assert supervisor.keep_going()
    threading.Timer(0.3, interrupt).start()
    begun = time.monotonic()
    supervisor.stop()
    assert time.monotonic() - begun < 30
    assert ("one", "is killed") in heard.lines


def test_output_goes_to_files_where_that_is_wanted(tmp_path: Path) -> None:
    """And its end can be asked for."""
    supervisor = Supervisor(Heard(), logs=tmp_path)
    child = supervisor.start("one", python("for i in range(30): print('line', i)"), os.environ)
    assert child.process is not None
    child.process.wait(30)
    assert supervisor.ended() == [child]
    assert supervisor.last_words(child, 2) == "line 28\nline 29"
    supervisor.stop()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has parent-death signals")
def test_children_die_with_a_killed_supervisor() -> None:
    """Nobody is left behind by a kill -9."""
    script = (
        "import os, sys\nfrom scheduler.cli.supervisor import Supervisor\n"
        "supervisor = Supervisor(lambda child, line: print(line, flush=True))\n"
        f"child = supervisor.start('one', [sys.executable, '-c', {SLEEPER!r}], os.environ)\n"
        "print(child.process.pid, flush=True)\nsupervisor.keep_going()"
    )
    supervisor = subprocess.Popen(
        python(script), stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert supervisor.stdout is not None
    child = psutil.Process(int(supervisor.stdout.readline()))
    assert supervisor.stdout.readline() == "up\n"
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    child.wait(10)
