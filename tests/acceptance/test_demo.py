"""`celeriac demo`, from nothing to its results: exit status 0 only when every outcome is right."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from .demonstrated import COMMAND, demo, environment
from .stack import ROOT, eventually


@pytest.mark.slow
def test_the_demo_is_right_from_nothing_to_its_results(tmp_path: Path) -> None:
    """Progress, the first five messages one by one, the others in sum, the counts, where to look next."""
    begun = time.monotonic()
    done = demo(tmp_path, "--keep", str(tmp_path / "kept"), CELERIAC_REDIS_URL="redis://127.0.0.1:1/0")
    took = time.monotonic() - begun
    assert done.returncode == 0, done.stderr
    assert took < 60, f"{took:.0f} s; about 12 s on two free cores"

    rows = [line.split("\t") for line in done.stdout.splitlines()]
    table = {row[0]: row[2:] for row in rows if row[0].startswith("FB")}
    assert table == {
        "FB001": ["positive", "technical_issue, feature_request", "Product Development Team"],
        "FB002": ["positive", "general_inquiry", "General Support"],
        "FB003": ["negative", "general_inquiry", "General Support"],
        "FB004": ["neutral", "general_inquiry", "General Support"],
        "FB005": ["neutral", "", "stopped: permanent"],
    }
    facts = {row[0]: row[1] for row in rows if len(row) == 2}
    assert facts["nodes"] == "1076: succeeded 850, failed 11, skipped 204, upstream_failed 11"
    assert int(facts["attempts"]) >= 861
    assert facts["errors handled"].startswith("11 of 11")
    assert "All 215 outcomes are right." in done.stderr
    assert "succeeded  1076/1076" in done.stderr
    for hint in ("celeriac runs show", "celeriac up", "celeriac graph draw", "tasks/feedback.py"):
        assert hint in done.stderr

    shown = subprocess.run(
        [sys.executable, "-m", "scheduler.cli", "runs", "ls", "-o", "json"],
        cwd=ROOT,
        env={**os.environ, "CELERIAC_DATA_DIR": str(tmp_path / "kept" / "redis")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [it["state"] for it in json.loads(shown.stdout)] == ["succeeded"]
    assert not list((tmp_path / "tmp").glob("celeriac-*"))


def test_the_demo_as_one_document(tmp_path: Path) -> None:
    """-o json: the items, the counts, the verdict, and nothing else on standard output."""
    done = demo(tmp_path, "--limit", "8", "-o", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["right"] is True
    assert (len(found["items"]), found["stopped"], found["errors_handled"]) == (8, 1, 1)
    assert found["items"][0]["team"] == "Product Development Team"
    assert not list((tmp_path / "tmp").iterdir())


def test_a_wrong_outcome_ends_the_demo_with_1(tmp_path: Path) -> None:
    """Executors that follow other rules are found out by the outcomes recorded beside the messages."""
    shutil.copytree(ROOT / "tasks", tmp_path / "here" / "tasks")
    shutil.copytree(ROOT / "config", tmp_path / "here" / "config")
    rules = tmp_path / "here" / "tasks" / "feedback.py"
    rules.write_text(rules.read_text().replace('"bad", "issue"', '"bad"').replace('find("crash")', 'find("Crash!")'))
    done = demo(tmp_path, "--limit", "20", cwd=tmp_path / "here", PYTHONPATH=f"{tmp_path / 'here'}{os.pathsep}{ROOT}")
    assert done.returncode == 1, done.stderr
    assert "WRONG: FB005: team is 'General Support', expected None" in done.stderr
    assert "WRONG: FB017: sentiment is 'neutral', expected 'negative'" in done.stderr
    assert "outcomes are right" not in done.stderr


def test_without_the_repository_the_demo_says_so(tmp_path: Path) -> None:
    """A wheel does not hold the example: 2, and what to do."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "scheduler").symlink_to(ROOT / "scheduler")
    # an editable installation has the repository on the path; an ordinary one has not
    hide = f"import sys\nsys.path[:] = [it for it in sys.path if it != {str(ROOT)!r}]\n"
    (tmp_path / "site" / "sitecustomize.py").write_text(hide)
    done = demo(tmp_path, cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 2, done.stderr
    assert "belongs to the repository and the image" in done.stderr
    assert "make demo" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_demo_leaves_nothing_behind(tmp_path: Path, how: signal.Signals) -> None:
    """No process, no directory."""
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(COMMAND, cwd=ROOT, env=environment(tmp_path), stdout=log, stderr=log)
    left: set[psutil.Process] = set()
    stopped: list[psutil.Process] = []

    def runs() -> bool:
        """The scheduler stands still before the run comes, so that the run cannot end before the signal comes."""
        left.update(psutil.Process(process.pid).children(recursive=True))
        for it in left if not stopped else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                if it.cmdline()[-1:] == ["scheduler"]:
                    it.suspend()
                    stopped.append(it)
        return "submitted as run" in (tmp_path / "log").read_text()

    try:
        eventually(runs, "the demo runs")
        process.send_signal(how)
        for scheduler in stopped:
            scheduler.resume()
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    gone, alive = psutil.wait_procs(list(left), timeout=30)
    assert not alive, [it.cmdline() for it in alive]
    assert len(gone) >= 4
    assert not list((tmp_path / "tmp").iterdir())
