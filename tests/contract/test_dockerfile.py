"""The Dockerfile keeps its promises; read, not built, since there may be no engine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def instructions() -> list[tuple[str, str]]:
    """(INSTRUCTION, its text) in order, comments dropped, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(word.upper(), " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in lines) if word]


def last_stage(instructions: list[tuple[str, str]]) -> dict[str, str]:
    """The last of each instruction in the final stage."""
    start = max(i for i, (word, _) in enumerate(instructions) if word == "FROM")
    return dict(instructions[start:])


def test_bases_are_pinned_by_version_and_named_without_a_host(instructions: list[tuple[str, str]]) -> None:
    """No `latest`, and whoever has a mirror sets it in one place."""
    base = dict(instructions)["ARG"].removeprefix("PYTHON_IMAGE=")
    assert re.fullmatch(r"python:3\.1[12](\.\d+)?-slim-[a-z]+", base)
    assert {rest.split()[0] for word, rest in instructions if word == "FROM"} == {"${PYTHON_IMAGE}"}


def test_it_runs_as_a_numeric_user_that_is_not_root(instructions: list[tuple[str, str]]) -> None:
    """Orchestrators can only check a number."""
    user = last_stage(instructions)["USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_signals_reach_the_process(instructions: list[tuple[str, str]]) -> None:
    """No shell stands between the engine and celeriac."""
    stage = last_stage(instructions)
    assert json.loads(stage["ENTRYPOINT"]) == ["celeriac"]
    assert json.loads(stage["CMD"]) == ["--help"]
    assert stage["STOPSIGNAL"] == "SIGTERM"


def test_the_build_stays_behind_and_versions_are_constrained(instructions: list[tuple[str, str]]) -> None:
    """Two stages; every pip install names the constraints."""
    assert sum(word == "FROM" for word, _ in instructions) == 2
    installs = [rest for word, rest in instructions if word == "RUN" and "pip install" in rest]
    assert installs
    assert all("-c /tmp/constraints.txt" in rest for rest in installs)


def test_what_is_copied_exists(instructions: list[tuple[str, str]]) -> None:
    """A renamed directory breaks here and not in a build far away."""
    for word, rest in instructions:
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
