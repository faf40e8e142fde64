"""Documents of policies: what they may say, and what is told when they say something else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from scheduler.core.safety import AFTER, BEFORE, Check
from scheduler.errors import CeleriacError, InvalidValue, SettingsError
from scheduler.policy import policy_of, read_policy, remarks
from scheduler.settings import default_file

EXAMPLE = Path(default_file("policy.toml"))


def test_the_example_says_all_that_a_policy_may_say() -> None:
    """config/policy.toml reads, and uses every table and field but those that exclude others."""
    found = read_policy(EXAMPLE.read_bytes(), ".toml")
    assert [it["layer"] for it in found["layers"]] == ["system", "class", "executor", "workflow"]
    assert found["checks"].keys() == {"short-prompt", "clean-answer"}
    text = EXAMPLE.read_text("utf-8")
    for word in (*BEFORE, *AFTER, "soft_timeout_seconds", "base_seconds", "factor", "hold", "running"):
        assert word in text


def test_the_policy_in_the_readme_is_one() -> None:
    """What people copy can be deployed."""
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    [text] = re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)
    found = read_policy(text.encode(), ".toml")
    assert (found["checks"].keys(), remarks(found)) == ({"short-prompt", "clean-answer"}, [])


def test_toml_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    """One record, whatever it was written in."""
    document = {"version": "1", "system": {"retry": {"max_attempts": 4}}, "executors": {"a.*": {"timeout_seconds": 2}}}
    toml = b'version = "1"\n[system]\nretry = { max_attempts = 4 }\n[executors."a.*"]\ntimeout_seconds = 2\n'
    yaml = b"version: '1'\nsystem: {retry: {max_attempts: 4}}\nexecutors:\n  a.*: {timeout_seconds: 2}\n"
    wanted = policy_of(document)
    assert read_policy(toml, ".toml") == read_policy(yaml, ".yaml") == wanted
    assert read_policy(json.dumps(document).encode(), ".json") == wanted


def test_values_are_converted_to_the_record_s_units() -> None:
    """Seconds become milliseconds; locks are named by what they lock, a whole table included."""
    found = policy_of(
        {
            "version": "1",
            "system": {"retry": {"base_seconds": 0.5, "cap_seconds": 9}, "timeout_seconds": 2, "locked": ["retry"]},
            "classes": {"a": {"silence_seconds": 3, "locked": True}},
        }
    )
    system, of_class = found["layers"]
    assert system["set"] == {"base_ms": 500, "cap_ms": 9000, "timeout_ms": 2000}
    assert sorted(system["locked"]) == ["base_ms", "cap_ms"]
    assert of_class["locked"] == ["silence_ms"]


def test_checks_are_kept_in_canonical_form() -> None:
    """And read by the core as they are."""
    found = policy_of({"version": "1", "checks": {"a": {"before": "size( input['to'] )<9"}}})
    assert found["checks"]["a"]["before"] == "size(input.to) < 9"
    assert Check.from_record("a", found["checks"]["a"]).before is not None


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ([], "the policy: .*is not an object"),
        ({}, "version: .*names no version"),
        ({"version": "a b"}, "version: .*names no version"),
        ({"version": 3}, "version: .*names no version"),
        ({"version": "1", "adopt": "all"}, "adopt: .*says nothing of which runs"),
        ({"version": "1", "sistem": {}}, "'sistem'.*Did you mean 'system'"),
        ({"version": "1", "system": []}, "system: .*is not an object"),
        ({"version": "1", "system": {"retry": {"max_attempt": 3}}}, r"system.retry: .*Did you mean 'max_attempts'"),
        (
            {"version": "1", "executors": {"a": {"retry": {"max_attempts": 0}}}},
            r'executors\["a"\].retry.max_attempts: .*out',
        ),
        ({"version": "1", "system": {"retry": {"never": ["tiemout"]}}}, r"system.retry.never.*'tiemout'"),
        ({"version": "1", "system": {"retry": {"never": "timeout"}}}, r"system.retry.never.*is not a list"),
        ({"version": "1", "system": {"timeout_seconds": "2s"}}, "system.timeout_seconds: .*not a number"),
        ({"version": "1", "system": {"timeout_seconds": 2, "soft_timeout_seconds": 2}}, "not shorter than the hard"),
        ({"version": "1", "system": {"locked": ["timeout_seconds"]}}, "system.locked: .*is not set by this layer"),
        ({"version": "1", "system": {"checks": ["a"]}}, "system.checks: .*is no check of this policy"),
        ({"version": "1", "checks": {"a": {}}}, r'checks\["a"\]: .*asks nothing'),
        ({"version": "1", "checks": {"a b": {"before": "true"}}}, "names no check"),
        ({"version": "1", "checks": {"a": {"before": "true", "deny": "drop"}}}, "deny: .*is nothing that can be done"),
        ({"version": "1", "checks": {"a": {"after": "true", "deny": "hold"}}}, "deny: .*holds nothing back"),
        ({"version": "1", "checks": {"a": {"before": "inputs.a == 1"}}}, r"before: .*there is no value 'inputs'"),
        ({"version": "1", "checks": {"a": {"before": "output.a == 1"}}}, r"before: .*there is no value 'output'"),
        ({"version": "1", "checks": {"a": {"before": "input.a +"}}}, "before: .*cannot be asked"),
        ({"version": "1", "checks": {"a": {"before": "attempt + 1"}}}, "before: .*cannot be asked"),
        ({"version": "1", "checks": {"a": {"before": "true", "message": 3}}}, "message: .*is not text"),
    ],
)
def test_what_cannot_be_is_told_with_its_place(document: Any, told: str) -> None:
    """What was found, where, and what to do."""
    with pytest.raises(InvalidValue, match=f"(?s){told}"):
        policy_of(document)


@pytest.mark.parametrize(
    ("text", "suffix"), [(b"version = ", ".toml"), (b"\xff", ".toml"), (b"{a: [", ".yaml"), (b"{", ".json")]
)
def test_what_is_no_document_is_told_as_one(text: bytes, suffix: str) -> None:
    """The language that was expected, and the place."""
    with pytest.raises(SettingsError, match="the policy"):
        read_policy(text, suffix)


def test_a_policy_is_bounded() -> None:
    """Nobody can make every scheduler read a huge one."""
    with pytest.raises(SettingsError, match="at most 1,048,576 are taken"):
        read_policy(b" " * 1_048_577, ".toml")
    with pytest.raises(CeleriacError, match="more than 1000 layers"):
        policy_of({"version": "1", "executors": {f"e{number}": {} for number in range(1_001)}})
