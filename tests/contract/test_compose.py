"""docker-compose.yml says what it seems to say: checked without an engine, since there may be none."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from scheduler.settings import QueueClass, Settings, read_queues
from tests.contract.commands import resolve

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
SCHEMA = json.loads((Path(__file__).parent / "compose.schema.json").read_text(encoding="utf-8"))
FOREIGN_ENVIRONMENT = {"REMAP_SIGTERM", "FLOWER_BASIC_AUTH"}  # Celery's and Flower's


def load(text: str | None = None) -> dict[str, Any]:
    """The compose file as an engine would see it, anchors and merges resolved."""
    document: dict[str, Any] = yaml.safe_load(text if text is not None else COMPOSE.read_text(encoding="utf-8"))
    return document


def seconds(duration: str) -> float:
    """`1m30s` -> 90."""
    unit = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
    return sum(float(n) * unit[u] for n, u in re.findall(r"(\d+)(us|ms|s|m|h)", duration))


def problems(document: dict[str, Any], classes: dict[str, QueueClass]) -> list[str]:
    """What the schema cannot see, one sentence each."""
    services = document["services"]
    found = []
    for name, service in services.items():
        found += [
            f"{name}: depends on {d}, which is no service" for d in service.get("depends_on", {}) if d not in services
        ]
        found += [
            f"{name}: volume {v} is not declared" for v in _named_volumes(service) if v not in document["volumes"]
        ]
        found += [f"{name}: {v} is not in the repository" for v in _mounted_files(service) if not (ROOT / v).is_file()]
        found += [
            f"{name}: port {p} is not on loopback" for p in service.get("ports", []) if not p.startswith("127.0.0.1:")
        ]
        found += [f"{name}: {key} is no setting" for key in service.get("environment", {}) if not _is_setting(key)]
    for queue_class in classes.values():
        worker = services.get(f"worker-{queue_class.name}")
        if worker is None or worker["command"] != ["worker", queue_class.name]:
            found.append(f"class {queue_class.name}: no service runs its worker")
        elif seconds(worker["stop_grace_period"]) <= queue_class.shutdown_seconds:
            found.append(f"class {queue_class.name}: is killed before its shutdown_seconds are over")
    for name in services:
        if name.startswith("worker-") and name.removeprefix("worker-") not in classes:
            found.append(f"{name}: there is no such class")
    return found


def _named_volumes(service: dict[str, Any]) -> list[str]:
    return [v.split(":")[0] for v in service.get("volumes", []) if not v.startswith((".", "/"))]


def _mounted_files(service: dict[str, Any]) -> list[str]:
    return [v.split(":")[0] for v in service.get("volumes", []) if v.startswith(".")]


def _is_setting(key: str) -> bool:
    return key in FOREIGN_ENVIRONMENT or key.removeprefix("CELERIAC_").lower() in Settings.model_fields


@pytest.fixture
def classes() -> dict[str, QueueClass]:
    """The shipped queue classes."""
    return read_queues(ROOT / "config" / "queues.toml")


def test_every_key_and_type_is_one_of_the_compose_specification() -> None:
    """A misspelt key would be ignored or refused only on the day of the deployment."""
    jsonschema.Draft202012Validator(SCHEMA).validate(load())


def test_the_schema_of_this_test_is_a_schema_and_refuses_a_typo() -> None:
    """The check checks: a misspelt `healthcheck` does not pass."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    document = load(COMPOSE.read_text(encoding="utf-8").replace("    healthcheck:\n", "    healthchek:\n"))
    with pytest.raises(jsonschema.ValidationError, match="healthchek"):
        jsonschema.Draft202012Validator(SCHEMA).validate(document)


def test_names_paths_ports_and_graces_fit_together(classes: dict[str, QueueClass]) -> None:
    """Nothing dangles, nothing is public, every class has its worker and time to finish."""
    assert problems(load(), classes) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d["services"].pop("redis"), "scheduler: depends on redis, which is no service"),
        (lambda d: d["volumes"].clear(), "redis: volume redis-data is not declared"),
        (lambda d: d["services"]["flower"].update(ports=["5555:5555"]), "flower: port 5555:5555 is not on loopback"),
        (
            lambda d: d["services"]["redis"].update(environment={"CELERIAC_REDIS": "x"}),
            "redis: CELERIAC_REDIS is no setting",
        ),
        (lambda d: d["services"].pop("worker-batch-high"), "class batch-high: no service runs its worker"),
        (
            lambda d: d["services"]["worker-batch-high"].update(stop_grace_period="10s"),
            "class batch-high: is killed before its shutdown_seconds are over",
        ),
    ],
)
def test_each_kind_of_mistake_is_told(change: Any, sentence: str, classes: dict[str, QueueClass]) -> None:
    """The test of the test: every rule above finds a file that breaks it."""
    document = load()
    change(document)
    assert sentence in problems(document, classes)


def test_every_command_is_one_of_the_command_line() -> None:
    """What a container starts exists, and its arguments are accepted."""
    for name, service in load()["services"].items():
        if name != "redis":
            assert resolve(service["command"]), name


def test_redis_keeps_what_it_acknowledges() -> None:
    """Its configuration is the shipped one, its data are on a volume, and others wait until it answers."""
    services = load()["services"]
    assert "/etc/celeriac/redis.conf" in services["redis"]["command"]
    assert "./config/redis.conf:/etc/celeriac/redis.conf:ro" in services["redis"]["volumes"]
    assert "redis-data:/data" in services["redis"]["volumes"]
    assert all(
        s["depends_on"] == {"redis": {"condition": "service_healthy"}} for n, s in services.items() if n != "redis"
    )


def test_two_schedulers_share_the_work() -> None:
    """One may die at any time."""
    assert load()["services"]["scheduler"]["deploy"]["replicas"] == 2


def test_health_checks_start_no_python() -> None:
    """A check every ten seconds in every container must cost nothing."""
    for service in load()["services"].values():
        words = " ".join(service["healthcheck"]["test"])
        assert not re.search(r"python|celery|celeriac", words)


def test_the_heartbeat_check_sees_an_old_file_and_a_missing_one(tmp_path: Path) -> None:
    """Fresh is healthy; 31 seconds old or absent is not."""
    check = load()["services"]["scheduler"]["healthcheck"]["test"][1].replace("$$", "$")
    heartbeat = tmp_path / "heartbeat"
    command = ["sh", "-c", check.replace("/tmp/heartbeat", str(heartbeat))]

    assert subprocess.run(command, check=False, capture_output=True).returncode != 0
    heartbeat.touch()
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    subprocess.run(["touch", "-d", "31 seconds ago", str(heartbeat)], check=True)
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0


def test_the_engine_agrees_where_there_is_one() -> None:
    """`docker compose config` accepts the file."""
    docker = shutil.which("docker")
    if (
        docker is None
        or subprocess.run([docker, "compose", "version"], check=False, capture_output=True).returncode != 0
    ):
        pytest.skip("no docker with the compose plug-in here; the schema and the rules above stand in for it")
    subprocess.run([docker, "compose", "-f", str(COMPOSE), "config", "-q"], check=True, capture_output=True)
