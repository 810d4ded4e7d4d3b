"""Jobs on a Dask cluster bring the modules of their script: its workers cannot see the folder, or do not need to."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import PATIENCE, need
from places import ROOT
from telling import TOLD

need(find_spec("distributed"), "distributed (pip install 'pymar[dask]')")
from distributed import Client, LocalCluster  # noqa: E402 - only if it is there

JOB = """
import os, sys, time
from distributed import Client
from pymar import DataSourceFactory, Producer
import helper

TOLD

def told(engine):
    return Told(engine=engine).map(DataSourceFactory(range(2)), timeout=60)
""".replace("TOLD", TOLD.replace("= 4", "= 2"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        dashboard_address="127.0.0.1:0",
        local_directory=str(tmp_path_factory.mktemp("dask")),
        host="127.0.0.1",
    ) as cluster:
        yield cluster


def _set(in_place):
    from pymar.engines.cluster import worker

    worker.IN_PLACE = in_place


@pytest.fixture
def client(cluster):
    """Workers that use the producer's folders where these are here; `elsewhere` are those that have not got them."""
    with Client(cluster, set_as_default=False) as client:
        client.run(_set, True)
        yield client


@pytest.fixture
def elsewhere(client):
    client.run(_set, False)
    return client


@pytest.fixture
def begin(tmp_path, cluster):
    """Start a script with helpers beside it."""
    started = []

    def begin(code, folder="script", **helpers):
        folder = tmp_path / folder
        folder.mkdir(exist_ok=True)
        for name, text in helpers.items():
            (folder / f"{name}.py").write_text(text)
        (folder / "job.py").write_text(f"{JOB}\nADDRESS = {cluster.scheduler_address!r}\n{code}")
        pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
        environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        started.append(
            subprocess.Popen([sys.executable, folder / "job.py"], **pipes, text=True, cwd=tmp_path, env=environ)
        )
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def run(begin):
    """Run such a script; return what it printed."""

    def run(code, **helpers):
        return answer(begin(code, **helpers))

    return run


def answer(process):
    out, err = process.communicate(timeout=PATIENCE)
    assert not process.returncode, err
    return out


ONCE = "print(told(ADDRESS.replace('tcp', 'dask')))"


def test_a_helper_beside_the_script_follows_and_an_edited_one_is_the_new_one(run, elsewhere):
    for number in (1, 2, 1):
        assert run(ONCE, helper=f"def f(x): return {number}, 'cache' in __file__\n") == f"{[(number, True)] * 2}\n"


def test_data_beside_a_helper_are_found_where_the_folder_is_shared(run, client, tmp_path):
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "data.csv").write_text("1,2")
    helper = "from pathlib import Path\ndef f(x): return Path(__file__).with_name('data.csv').read_text()\n"
    assert run(ONCE, helper=helper) == "['1,2', '1,2']\n"


def test_a_second_job_sends_the_modules_no_more(run, elsewhere):
    code = """
sent = []
with Client(ADDRESS, set_as_default=False) as client:
    submit = client.submit

    def noted(function, *arguments, **options):
        sent.extend(len(one) for one in arguments if isinstance(one, bytes) and one[:4] == b"PMA1")
        return submit(function, *arguments, **options)

    client.submit = noted
    print(told(client), told(client), len(sent))
"""
    assert run(code, helper="def f(x): return x\n") == "[0, 1] [0, 1] 1\n"


def test_jobs_with_different_modules_run_at_once(begin, elsewhere):
    slow = "import time\ndef f(x):\n    time.sleep(0.05)  # the work of a part\n    return NAME\n"
    jobs = {name: begin(ONCE, name, helper=f"NAME = {name!r}\n{slow}") for name in ("one", "other")}
    for name, process in jobs.items():
        assert answer(process) == f"{[name] * 2}\n"


def test_modules_that_cannot_be_unpacked_end_the_job_with_the_reason(run, elsewhere):
    elsewhere.run(_break_cache)
    code = f"try:\n    {ONCE}\nexcept Exception as error:\n    print(type(error).__name__, error)"
    try:
        said = run(code, helper="def f(x): return 'an archive that nobody has yet'\n")
    finally:
        elsewhere.run(_mend_cache)
    assert said.startswith("ClusterRefused")
    assert "No space left" in said


def _break_cache():
    from pymar.serialization import codecache

    def full(path, content):
        raise OSError(28, "No space left on device")

    codecache._write, codecache.really_write = full, codecache._write


def _mend_cache():
    from pymar.serialization import codecache

    codecache._write = codecache.really_write
