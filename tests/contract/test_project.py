"""The repository as others meet it: the wheel, make's list, pinned versions, nothing of the machine it was made on."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from celery.app.defaults import NAMESPACES, flatten

from scheduler.settings import Settings

ROOT = Path(__file__).parents[2]


def repository_files() -> list[Path]:
    """What is or would be under version control."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built here without a network."""
    directory = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = directory.glob("celeriac-*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_one_package_and_its_defaults(wheel: zipfile.ZipFile) -> None:
    """`tasks` and `config` would collide with those of almost every Celery project."""
    names = wheel.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"scheduler"}
    defaults = {name.removeprefix("scheduler/defaults/") for name in names if name.startswith("scheduler/defaults/")}
    assert defaults == {
        "queues.toml",
        "celery.toml",
        "capabilities.toml",
        "policy.toml",
        "redis.conf",
        "flower.py",
        "users.acl",
    }
    assert "scheduler/py.typed" in names


def test_the_wheel_holds_every_file_that_the_code_reads(wheel: zipfile.ZipFile) -> None:
    """Scripts and other data beside the modules travel with them."""
    here = {str(p.relative_to(ROOT)) for p in repository_files() if p.is_relative_to(ROOT / "scheduler")}
    assert here <= set(wheel.namelist())


def test_an_installed_wheel_finds_its_defaults(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Without the repository the settings come from inside the package."""
    wheel.extractall(tmp_path)
    script = (
        "from scheduler.settings import Settings, default_file; Settings.load(); print(default_file('queues.toml'))"
    )
    said = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert said.strip() == str(tmp_path / "scheduler" / "defaults" / "queues.toml")


def test_make_alone_lists_every_target() -> None:
    """`make` answers with what it can do, and leaves nothing out."""
    said = subprocess.run(["make", "-s", "-C", str(ROOT)], check=True, capture_output=True, text=True).stdout
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, flags=re.MULTILINE))
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, flags=re.MULTILINE)
    assert targets == set(phony.split())
    assert set(re.findall(r"^  make (\S+)  +\S", said, flags=re.MULTILINE)) == targets


@pytest.mark.parametrize("script", ["run", "python-env"])
def test_scripts_stop_at_the_first_error(script: str) -> None:
    """A script that goes on after an error reports success for nothing."""
    path = ROOT / ".ci" / script
    assert path.stat().st_mode & 0o111
    assert "\nset -euo pipefail\n" in path.read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize("file", ["config/constraints.txt", "tests/bench/peers.txt"])
def test_constraints_are_names_and_versions_only(file: str) -> None:
    """No host, no path, nothing that another machine does not have."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    entries = [line for line in lines if line and not line.startswith("#")]
    assert entries
    for line in entries:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line


def test_constraints_pin_what_is_declared() -> None:
    """A dependency without a pinned version would drift unseen."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(w for extra in project["optional-dependencies"].values() for w in extra)]
    constraints = (ROOT / "config" / "constraints.txt").read_text(encoding="utf-8")
    pinned = {name.lower().replace("_", "-") for name in re.findall(r"^([\w.-]+)==", constraints, flags=re.MULTILINE)}
    for requirement in wanted:
        name = re.match(r"[\w.-]+", requirement)
        assert name
        assert name[0].lower().replace("_", "-") in pinned, requirement


def test_nothing_names_a_registry_or_a_place_of_this_machine() -> None:
    """Files mean the same on every machine."""
    hosts = r"(?:docker|ghcr|quay|gcr)[.]io|(?:python(?:hosted)|pypi)[.]org"
    places = r"/(?:home|root|Users|work|opt/pypi)/"
    pattern = re.compile(rf"\b(?:{hosts})\b|(?<![\w.}}]){places}")
    found = []
    for path in repository_files():
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(text)]
    assert found == []


def test_every_setting_in_celery_toml_is_one_of_celerys() -> None:
    """Celery ignores a misspelt setting in silence."""
    known = {key for key, _ in flatten(NAMESPACES)}
    settings = Settings.load(redis_url="redis://localhost:6379/0")
    assert set(settings.celery_settings(settings.default_class)) <= known


def test_flower_is_read_only_on_loopback_and_knows_its_options() -> None:
    """Flower has no login of its own and ignores options it does not know."""
    from flower.options import default_options

    written: dict[str, object] = {}
    exec((ROOT / "config" / "flower.py").read_text(encoding="utf-8"), written)
    chosen = {
        k: v for k, v in written.items() if not k.startswith("__") and k not in ("annotations", "ipaddress", "os")
    }
    assert set(chosen) <= {name.replace("-", "_") for name in default_options._options}
    assert chosen["address"] == "127.0.0.1"
    assert chosen["read_only"] is True
    assert "args" in str(chosen["tasks_columns"])


def test_importing_the_package_loads_nothing_heavy() -> None:
    """`celeriac --help` answers within 0.3 seconds only if its imports are light."""
    script = "import sys, scheduler; print(sorted({'pydantic', 'celery', 'redis', 'rich'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert said.strip() == "[]"


def test_the_version_is_the_installed_one_where_the_project_is_installed() -> None:
    """An environment that still has an older installation would test something else."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    try:
        installed = version("celeriac")
    except ModuleNotFoundError:
        pytest.skip("celeriac is not installed here; the tests read the repository")
    assert installed == project["version"]
