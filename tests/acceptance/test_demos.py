"""The worked examples, each on a Redis and workers of its own: every run goes the way that is recorded beside it."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scheduler.cli import main

from .demonstrated import COMMAND, demo, environment
from .stack import ROOT


def shown(directory: Path, name: str, *options: str) -> dict[str, Any]:
    """What a demo has found; it must have gone well and left nothing behind."""
    done = demo(directory, name, "-o", "json", *options)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert not list((directory / "tmp").iterdir())
    found: dict[str, Any] = json.loads(done.stdout)
    assert (found["demo"], found["right"], found["problems"]) == (name, True, [])
    return found


def events(kept: Path, run: str) -> list[tuple[str, str, int, str]]:
    """(node, move, attempt, why) of a run's log, read later by another command."""
    done = subprocess.run(
        [sys.executable, "-m", "scheduler.cli", "runs", "events", run, "-o", "json"],
        cwd=ROOT,
        env={**os.environ, "CELERIAC_DATA_DIR": str(kept / "redis")},
        capture_output=True,
        text=True,
        check=True,
    )
    log = map(json.loads, done.stdout.splitlines())
    return [(it["node"], it["move"], it["attempt"], it["why"]) for it in log if it["node"]]


@pytest.mark.slow
def test_questions_are_retrieved_generated_validated_and_handed_to_a_person(tmp_path: Path) -> None:
    """By the log: a wider retrieval when too little is known, other parameters after a refused draft, then a person."""
    found = shown(tmp_path, "rag", "--keep", str(tmp_path / "kept"))
    runs = {it["item"]: it for it in found["items"]}
    logs = {name: events(tmp_path / "kept", it["run"]) for name, it in runs.items()}

    assert ("retrieve wider", "skip") in [it[:2] for it in logs["enough is known"]]
    thin = [it[:2] for it in logs["a wider look"] if it[1] in ("succeed", "decide")]
    assert thin == [
        ("retrieve", "succeed"),
        ("sufficient", "decide"),
        ("retrieve wider", "succeed"),
        ("generate", "succeed"),
        ("reply", "succeed"),
    ]
    tried = [it for it in logs["wider, third draft"] if it[0] == "generate" and it[1] in ("dispatch", "retry")]
    assert [(it[1], it[2], it[3].partition(" in 0 ms")[0]) for it in tried] == [
        ("dispatch", 1, ""),
        ("retry", 1, "contract: rung 2 of 3, with changed inputs"),
        ("dispatch", 2, "rung 2 of 3, with changed inputs"),
        ("retry", 2, "contract: rung 3 of 3, with changed inputs"),
        ("dispatch", 3, "rung 3 of 3, with changed inputs"),
    ]
    ended = [it[:3] for it in logs["no draft will do"] if it[1] in ("fail", "park", "resolve")]
    assert ended == [("generate", "fail", 3), ("person", "park", 0), ("person", "resolve", 0)]
    assert runs["no draft will do"]["choice"] == "desk"
    assert any("quotes 'Descaling ends the warranty.'" in why for why in runs["no draft will do"]["why"])
    assert any("size(retrieve.output.passages) >= 2 is false" in why for why in runs["a wider look"]["why"])


def test_a_copy_is_brought_up_to_date_in_the_mode_that_its_flags_choose(tmp_path: Path) -> None:
    """Full, skip, incremental, full, full, each with the envelope that all have; the why names the flags."""
    found = shown(tmp_path, "mode")
    assert [it["output"]["mode"] for it in found["items"]] == ["full", "skip", "incremental", "full", "full"]
    assert [it["output"]["rows_written"] for it in found["items"]] == [3, 0, 2, 1, 2]
    assert "look.output.delta = false" in found["items"][-1]["why"][0]


def test_uploads_are_stored_published_or_archived(tmp_path: Path) -> None:
    """Safe ones directly, flagged ones by a person's decision, with the events of the example's names."""
    found = shown(tmp_path, "moderation")
    told = {it["item"]: [name for name, _ in it["events"]] for it in found["items"]}
    looked = ["Content_Uploaded", "Moderation_Result"]
    assert told == {
        "safe": [*looked, "Content_Stored"],
        "flagged, fine": [*looked, "Human_Decision", "Content_Published"],
        "flagged, bad": [*looked, "Human_Decision", "Content_Archived"],
    }
    assert any("nobody is at the terminal; it threatens people" in why for why in found["items"][2]["why"])


def test_a_person_at_the_terminal_decides(tmp_path: Path) -> None:
    """Asked there, with what the model said; the paths are those of the answers, and that is right too."""
    ours, theirs = pty.openpty()
    said: list[bytes] = []

    def listen() -> None:
        try:
            while data := os.read(ours, 4096):
                said.append(data)
        except OSError:  # the other end is closed
            pass

    process = subprocess.Popen(
        [*COMMAND, "moderation"],
        cwd=ROOT,
        env=environment(tmp_path),
        stdin=theirs,
        stderr=theirs,
        stdout=subprocess.PIPE,
        text=True,
    )
    os.close(theirs)
    listener = threading.Thread(target=listen)
    listener.start()
    try:
        os.write(ours, b"reject\nperhaps\napprove\n")
        out, _ = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
        listener.join(30)
        os.close(ours)
    text = b"".join(said).decode()
    assert process.returncode == 0, text
    assert "May this be published?" in text
    assert '"label": "threat"' in text
    paths = [line.split("\t")[2] for line in out.splitlines() if line.startswith("flagged") and " > " in line]
    assert [it.rpartition(" > ")[2] for it in paths] == ["archive", "publish"]


@pytest.mark.slow
def test_a_provider_is_replaced_while_runs_are_in_flight(tmp_path: Path) -> None:
    """Before the change all steps go to the first one, then to the second one alone; the audit says who and why."""
    found = shown(tmp_path, "swap")
    assert len(found["runs"]) == 3
    for it in found["runs"]:
        assert set(it["before"]) == {"swap.provider_a"}
        assert it["after"]["swap.provider_b"] > 0
        assert sum(it["before"].values()) + sum(it["after"].values()) == 30
    audit = found["audit"]
    assert (audit["capability"], audit["executor"], audit["by"]) == ("generate", "swap.provider_b", "demo")
    assert audit["reason"]


def test_a_wrong_way_ends_the_demo_with_1(tmp_path: Path) -> None:
    """A model that lets a threat pass is found out by the path that is recorded beside the item."""
    shutil.copytree(ROOT / "tasks", tmp_path / "here" / "tasks")
    shutil.copytree(ROOT / "config", tmp_path / "here" / "config")
    example = tmp_path / "here" / "tasks" / "examples" / "moderation.py"
    text = example.read_text()
    assert 'flagged=True, label="threat"' in text
    example.write_text(text.replace('flagged=True, label="threat"', 'flagged=False, label="threat"'))
    path = f"{tmp_path / 'here'}{os.pathsep}{ROOT}"
    done = demo(tmp_path, "moderation", cwd=tmp_path / "here", PYTHONPATH=path)
    assert done.returncode == 1, done.stderr
    assert "WRONG: flagged, bad: a person's choice is '', expected one of ['approve', 'reject']" in done.stderr
    assert "went the way that is recorded" not in done.stderr


@pytest.mark.parametrize("words", [["ls"], ["--list"]])
def test_all_demos_are_listed(words: list[str]) -> None:
    """One line each, and nothing is started."""
    said = CliRunner().invoke(main, ["demo", *words])
    assert said.exit_code == 0, said.output
    names = [line.partition("\t")[0] for line in said.stdout.splitlines()]
    assert names == ["demo", "feedback", "rag", "mode", "moderation", "swap"]


@pytest.mark.parametrize(
    ("words", "told"),
    [(["nonsense"], "'nonsense' is not one of"), (["swap", "--limit", "3"], "--limit is for the demo feedback")],
)
def test_what_no_demo_takes_is_refused(words: list[str], told: str) -> None:
    """Before anything is started."""
    said = CliRunner().invoke(main, ["demo", *words])
    assert said.exit_code == 2, said.output
    assert told in said.stderr
