"""The commands as people use them: real processes, exit statuses, terminals, Ctrl-C. One `celeriac up` for the file."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from .stack import ROOT, eventually

GRAPH = "tasks.examples.feedback:graph"
COMMAND = [sys.executable, "-m", "scheduler.cli"]
ANALYZED = {"feedback_id": "x", "text": "CRASH", "sentiment": "neutral"}
FAILING = {
    "celeriac": 1,
    "name": "failing",
    "nodes": [{"key": "\u202e[red]a", "executor": "feedback.topics", "inputs": {"feedback": ANALYZED}}],
}
STUCK = {
    "celeriac": 1,
    "name": "stuck",
    "nodes": [{"key": "a", "executor": "feedback.tally", "inputs": {"processed": []}, "queue_class": "batch-high"}],
}


def heeds_ctrl_c() -> None:
    """As on a terminal: tests that run in the background inherit that it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Up:
    """`celeriac up` in a directory of its own, and commands beside it."""

    def __init__(self, directory: Path, *options: str, **settings: str) -> None:
        self.directory = directory
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CELERIAC_")}
        self.environment = {**kept, "CELERIAC_DATA_DIR": str(directory / "data"), "PYTHONPATH": str(ROOT), **settings}
        self.log = directory / "up.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "up", *options], cwd=directory, env=self.environment, stdout=log, stderr=log
            )

    def ready(self, workers: int) -> None:
        """Returns when doctor finds a scheduler and so many workers."""

        def look() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            found = json.loads(self("doctor", "-o", "json", expect=None)[1] or "{}").get("findings", [])
            slots = sum(" workers, " in it["found"] and not it["found"].startswith("0 ") for it in found)
            return slots >= workers and any(" owns 16 of " in it["found"] for it in found)

        eventually(look, f"up with {workers} classes")

    def __call__(self, *words: str, expect: int | None = 0, stdin: str = "") -> tuple[int, str, str]:
        """Runs a command to its end: exit status, standard output, standard error."""
        done = subprocess.run(
            [*COMMAND, *words],
            cwd=self.directory,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if expect is not None:
            assert done.returncode == expect, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.returncode, done.stdout, done.stderr

    def json(self, *words: str, expect: int = 0, stdin: str = "") -> Any:
        """Runs a command with -o json; returns its one document."""
        return json.loads(self(*words, "-o", "json", expect=expect, stdin=stdin)[1])

    def on_a_terminal(self, *words: str, interrupt_on: str = "") -> tuple[int, str]:
        """Runs a command on a terminal; interrupts it, as Ctrl-C does, once it has written a text."""
        terminal, theirs = pty.openpty()
        process = subprocess.Popen(
            [*COMMAND, *words],
            cwd=self.directory,
            env={**self.environment, "TERM": "xterm-256color", "COLUMNS": "120"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=heeds_ctrl_c,  # noqa: PLW1509  nothing else runs between fork and exec here
        )
        os.close(theirs)
        said = b""
        while select.select([terminal], [], [], 60)[0]:
            try:
                data = os.read(terminal, 65_536)
            except OSError:
                break
            said += data
            if interrupt_on and interrupt_on.encode() in said:
                process.send_signal(signal.SIGINT)
                interrupt_on = ""
        os.close(terminal)
        return process.wait(60), said.decode(errors="replace")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Ends it; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(60)

    def descendants(self) -> list[psutil.Process]:
        """Every process that it has started, directly or not."""
        found: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return found


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One scheduler and one worker of two classes, none for batch-high."""
    it = Up(tmp_path_factory.mktemp("up"), "--workers", "interactive-low=1,standard-low=1")
    try:
        it.ready(workers=2)
        yield it
    finally:
        it.stop()


def test_run_prints_the_result_and_nothing_else(up: Up) -> None:
    """The result goes to standard output, progress to standard error."""
    _, out, err = up("run", GRAPH, "--input", "limit=6")
    assert json.loads(out)["stopped"] == 1
    assert "succeeded" in err
    found = up.json("run", GRAPH, "--input", "limit=5")
    assert (found["state"], found["nodes"]["failed"], found["result"]["stopped"]) == ("succeeded", 1, 1)
    assert found["attempts"] == 21


def test_submit_prints_an_id_and_a_key_finds_the_same_run(up: Up) -> None:
    """And watch and result come back to it."""
    words = ("submit", GRAPH, "--input", "limit=4", "--key", "once", "--label", "who=ann")
    run = up(*words)[1].strip()
    assert up(*words)[1].strip() == run
    assert json.loads(up("runs", "watch", run)[1])["stopped"] == 0
    assert up.json("runs", "result", run, "--node", "action-FB001")["team"] == "Product Development Team"
    listed = up.json("runs", "ls", "--label", "who=ann")
    assert [it["run"] for it in listed] == [run]
    assert (listed[0]["state"], listed[0]["key"], listed[0]["node_count"]) == ("succeeded", "once", 21)


def test_a_list_in_a_pipe_is_tab_separated(up: Up) -> None:
    """One heading, one line a run."""
    up("run", GRAPH, "--input", "limit=1")
    heading, *rows = up("runs", "ls", "--limit", "3")[1].splitlines()
    assert heading.split("\t")[:3] == ["run", "graph", "state"]
    assert all(len(row.split("\t")) == len(heading.split("\t")) for row in rows)


def test_a_failed_run_ends_with_1_and_says_what_failed(up: Up) -> None:
    """The error's own words; the node's name escaped."""
    _, out, err = up("run", "-", stdin=json.dumps(FAILING), expect=1)
    assert out == ""
    assert "\\u202e[red]a: Permanent: feedback x mentions a crash" in err
    assert "\u202e" not in err
    found = up.json("run", "-", stdin=json.dumps(FAILING), expect=1)
    assert found["state"] == "failed"
    status, _, err = up("runs", "result", found["run"], "--node", "\u202e[red]a", expect=1)
    assert (status, "Permanent" in err) == (1, True)


def test_what_is_not_there_is_5(up: Up) -> None:
    """A run, a node."""
    run = up("submit", GRAPH, "--input", "limit=1")[1].strip()
    up("runs", "show", "0" * 26, expect=5)
    up("runs", "show", "no such id", expect=5)
    up("runs", "show", run, "--node", "nope", expect=5)


def test_unknown_executors_and_broken_graphs_are_refused_with_6(up: Up) -> None:
    """Nothing is stored."""
    before = len(up.json("runs", "ls"))
    node = {"key": "a", "executor": "feedback.sentimant"}
    _, _, err = up("submit", "-", stdin=json.dumps({"celeriac": 1, "name": "x", "nodes": [node]}), expect=6)
    assert "Did you mean 'feedback.sentiment'" in err
    assert len(up.json("runs", "ls")) == before


def test_waiting_has_limits_of_its_own_and_cancel_ends_a_run(up: Up) -> None:
    """124 when the time is up, 75 when no worker comes, 3 when it was cancelled; doctor tells what is missing."""
    run = up("run", "-", "--detach", stdin=json.dumps(STUCK))[1].strip()
    _, _, err = up("run", "-", "--timeout", "0.5", stdin=json.dumps(STUCK), expect=124)
    other = err.split()[1]
    assert f"celeriac runs watch {other}" in err
    _, _, err = up("run", "-", "--worker-timeout", "1s", stdin=json.dumps(STUCK), expect=75)
    third = err.split()[1]
    assert "No worker for batch-high" in err

    shown = up.json("runs", "show", run, "--nodes")
    assert shown["nodes"][0]["why"] == "sent, and no worker serves the queue class 'batch-high'"
    findings = up.json("doctor", expect=1)["findings"]
    [wrong] = [it for it in findings if it["state"] == "wrong"]
    assert (wrong["subject"], wrong["remedy"]) == ("class batch-high", "Start `celeriac worker batch-high`.")

    up("runs", "cancel", run, other, third, "--reason", "enough", "--yes")
    for one in (run, other, third):
        assert "enough" in up("runs", "watch", one, expect=3)[2]
    assert up.json("doctor")["ok"] is True


def test_waiting_for_an_executor_that_nobody_has_is_told(up: Up) -> None:
    """--no-check submits it; doctor names it."""
    node = {"key": "a", "executor": "shop.unheard_of"}
    run = up("submit", "-", "--no-check", stdin=json.dumps({"celeriac": 1, "name": "x", "nodes": [node]}))[1].strip()
    findings = up.json("doctor", expect=1)["findings"]
    assert any(it["subject"] == "waiting nodes" and "shop.unheard_of" in it["found"] for it in findings)
    assert "shop.unheard_of" in up.json("runs", "show", run, "--nodes")["nodes"][0]["why"]
    up("runs", "cancel", run, "--yes")
    up("runs", "watch", run, expect=3)


def test_ctrl_c_detaches_and_says_how_to_come_back(up: Up) -> None:
    """130, and the run goes on."""
    (up.directory / "stuck.json").write_text(json.dumps(STUCK))
    status, said = up.on_a_terminal("run", "stuck.json", interrupt_on="running")
    assert status == 130
    run = said.split("celeriac runs watch ")[1].split()[0]
    assert up.json("runs", "show", run)["state"] == "running"
    up("runs", "cancel", run, "--yes")


def test_a_terminal_shows_bars_and_a_table_and_no_text_of_others_as_control(up: Up) -> None:
    """Names are shown escaped, also where rich would read markup."""
    (up.directory / "failing.json").write_text(json.dumps(FAILING))
    status, said = up.on_a_terminal("run", "failing.json")
    assert status == 1
    assert "━" in said
    assert "\\u202e[red]a" in said
    assert "\u202e" not in said
    status, said = up.on_a_terminal("runs", "ls")
    assert status == 0
    assert "─" in said
    assert "\x1b[3" in said
    assert "\x1b[3" not in up.on_a_terminal("--no-color", "runs", "ls")[1]


def test_progress_elsewhere_is_plain_lines(up: Up) -> None:
    """No control characters in a log file; a line while it runs, and one of its end."""
    nodes = [{"key": "pause", "wait": {"kind": "timer", "seconds": 3}}]  # far longer than to the first line
    _, _, err = up("run", "-", stdin=json.dumps({"celeriac": 1, "name": "slow", "nodes": nodes}))
    assert err.replace("\n", "").isprintable()
    told = [line for line in err.splitlines() if "/1 " in line]
    assert "running" in told[0]
    assert "succeeded" in told[-1]


def test_flower_is_read_only_on_loopback_and_ignores_a_stray_configuration(up: Up) -> None:
    """A flowerconfig.py in the working directory is not executed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (up.directory / "flowerconfig.py").write_text("open('executed', 'w')\nread_only = False\naddress = ''\nport = 1\n")
    environment = {**up.environment, "FLOWER_UNAUTHENTICATED_API": "true"}
    with (up.directory / "flower.log").open("wb") as log:
        flower = subprocess.Popen(
            [*COMMAND, "flower", "--port", str(port)], cwd=up.directory, env=environment, stdout=log, stderr=log
        )
    try:
        listening = eventually(
            lambda: [it for it in psutil.Process(flower.pid).net_connections() if it.status == "LISTEN"],
            "Flower listens",
        )
        assert {it.laddr for it in listening} == {("127.0.0.1", port)}
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/tasks", timeout=10) as page:
            assert page.status == 200
        url = f"http://127.0.0.1:{port}/api/worker/shutdown/interactive-low@x"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=10)
        assert refused.value.code == 403
        refused.value.close()
        assert not (up.directory / "executed").exists()
        assert f"http://127.0.0.1:{port}/tasks" in (up.directory / "flower.log").read_text()
    finally:
        flower.terminate()
        flower.wait(30)


def test_up_starts_a_killed_worker_again_and_leaves_nobody_behind(tmp_path: Path) -> None:
    """Its run completes; SIGTERM ends all of it; afterwards the run is shown from the data alone."""
    up = Up(tmp_path, "--workers", "interactive-low=1,standard-low=1", CELERIAC_SHARD_LEASE_SECONDS="3")
    try:
        up.ready(workers=2)
        [worker] = [
            it for it in psutil.Process(up.process.pid).children() if {"worker", "interactive-low"} <= set(it.cmdline())
        ]
        worker.kill()
        eventually(lambda: "started again" in up.log.read_text(), "up has noticed")
        run = up("submit", GRAPH)[1].strip()
        assert json.loads(up("runs", "watch", run)[1])["stopped"] == 11
        left = up.descendants()
        assert up.stop() == 0
    finally:
        up.stop()
    assert not [it for it in left if it.is_running() and it.status() != psutil.STATUS_ZOMBIE]

    shown = up.json("runs", "show", run, "--nodes")
    assert shown["state"] == "succeeded"
    assert (len(shown["nodes"]), len(shown["edges"])) == (1076, 1075)
    assert all(it["attempts"] for it in shown["nodes"] if it["state"] == "succeeded")
    assert up.json("runs", "result", run) == json.loads(up("runs", "result", run)[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has parent-death signals")
def test_a_killed_up_takes_all_of_it_along(tmp_path: Path) -> None:
    """No Redis, no scheduler and no worker outlives a kill -9 of the supervisor."""
    up = Up(tmp_path, "--workers", "standard-low=1")
    try:
        up.ready(workers=1)
        left = up.descendants()
        assert len(left) >= 4
    finally:
        up.stop(signal.SIGKILL)
    _, alive = psutil.wait_procs(left, timeout=40)
    assert not alive, [it.cmdline() for it in alive]
