"""Pymar can be installed as the README shows: from a repository, and as a wheel."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import need
from places import ROOT


def run(*command, **options):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that pip builds from the URL of a repository."""
    need(shutil.which("git") is not None, "git")
    repository, dist = tmp_path_factory.mktemp("pymar.git"), tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT / "src", repository / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, repository)
    git = ("git", "-C", repository, "-c", "user.name=x", "-c", "user.email=x@example.invalid")
    for command in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "all")):
        done = run(*git, *command)
        assert done.returncode == 0, done.stderr
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "-q", "-w", dist)
    done = run(*pip, f"git+file://{repository}")
    if "No matching distribution found for hatchling" in done.stderr:
        pytest.skip("no package index can be reached, which building needs")
    assert done.returncode == 0, done.stderr
    (made,) = dist.iterdir()
    return made


def test_the_wheel_of_a_repository_runs(wheel, tmp_path):
    assert wheel.name.endswith("-py3-none-any.whl")
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--no-deps",
        "-q",
        "--target",
        tmp_path,
    )
    done = run(*pip, wheel)
    assert done.returncode == 0, done.stderr
    code = "import pymar; print(pymar.__file__); from pymar.cli import main; main(['--version'])"
    done = run(sys.executable, "-c", code, env={**os.environ, "PYTHONPATH": str(tmp_path)}, cwd=tmp_path)
    where, version = done.stdout.splitlines()
    assert where.startswith(str(tmp_path))
    assert version.split()[-1] in wheel.name
