"""The files of deploy/ are valid, as far as that can be checked without a cluster."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from conftest import need
from places import ROOT

from pymar.cli import worker

DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent


def options_in(text):
    """Return the options of `pymar worker` that a text uses."""
    commands = re.findall(r"pymar\"?,? \"?worker\b\"?[ ,](.*)", text)
    assert commands
    return set(re.findall(r"--[a-z][a-z-]+", " ".join(commands)))


def test_the_worker_has_every_option_that_is_used():
    known = {name for parameter in worker.params for name in parameter.opts}
    for path in DEPLOY.glob("[!R]*"):
        found = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
        assert options_in(found) <= known, path


def test_the_systemd_unit(tmp_path):
    need(shutil.which("systemd-analyze") is not None, "systemd-analyze")
    unit = tmp_path / "pymar-worker.service"
    unit.write_text((DEPLOY / unit.name).read_text())
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert "pymar-worker" not in done.stderr, done.stderr


def test_the_kubernetes_manifest():
    done = subprocess.run(
        [BIN / "kubernetes-validate", "--strict", "-k", "1.34", DEPLOY / "kubernetes.yaml"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_slurm_script():
    done = subprocess.run([BIN / "shellcheck", DEPLOY / "worker.slurm"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_compose_file_is_yaml_with_two_services():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert services.keys() == {"broker", "worker"}
    assert services["worker"]["depends_on"]["broker"]["condition"] == "service_healthy"
