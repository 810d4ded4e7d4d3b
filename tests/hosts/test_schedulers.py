"""Allocations of Slurm, PBS and others are understood, and jobs of workers submitted. No real scheduler is here."""

import itertools
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import is_running, wait_until
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from pymar.amqp.keys import new_key
from pymar.exceptions import UsageError
from pymar.hosts import schedulers
from pymar.hosts.schedulers import Allocation, Node, allocation, nodes_of

# -- lists of hosts


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("gpu1", "gpu1"),
        ("a,b", "a b"),
        ("node[01-03,7],gpu1", "node01 node02 node03 node7 gpu1"),
        ("n[8-11]", "n8 n9 n10 n11"),
        ("n[098-101]", "n098 n099 n100 n101"),
        ("r[1-2]n[1-2]", "r1n1 r1n2 r2n1 r2n2"),
        ("n[1-2]-ib.site.org", "n1-ib.site.org n2-ib.site.org"),
        ("[1-2]", "1 2"),
        ("a,a,b[1,1]", "a b1"),
        (" a \n", "a"),
    ],
)
def test_a_list_of_slurm_is_expanded(text, names):
    assert nodes_of(text) == names.split()


LETTERS = st.text("abcxyz-.", min_size=1, max_size=4).map(lambda text: f"h{text}")


@st.composite
def ranges(draw):
    """A range as it is written, and its numbers."""
    low, width = draw(st.integers(0, 1200)), draw(st.integers(1, 5))
    high = low + draw(st.integers(0, 12))
    written = f"{low:0{width}d}"
    numbers = [str(number).zfill(len(written)) for number in range(low, high + 1)]
    return (written if high == low else f"{written}-{high}"), numbers


@st.composite
def items(draw):
    """An item of a list, and its names."""
    text, choices = "", []
    for _ in range(draw(st.integers(1, 3))):
        plain = draw(LETTERS)
        text, choices = text + plain, [*choices, [plain]]
        if draw(st.booleans()):
            inside = draw(st.lists(ranges(), min_size=1, max_size=3))
            text += f"[{','.join(written for written, _ in inside)}]"
            choices.append([number for _, numbers in inside for number in numbers])
    return text, ["".join(pieces) for pieces in itertools.product(*choices)]


@given(st.lists(items(), min_size=1, max_size=4))
def test_each_list_is_expanded_as_it_was_put_together(given_items):
    names = [name for _, expanded in given_items for name in expanded]
    assert nodes_of(",".join(text for text, _ in given_items)) == list(dict.fromkeys(names))


@pytest.mark.parametrize(
    "text",
    ["", " ", ",", "a,", ",a", "a,,b", "a[1-2", "a]1[", "a[]", "a[1-]", "a[2-1]", "a[x]", "a[1-2-3]", "a[[1]]", "a b",
     "a[1, 2]", "a[1]\nb", "a[\u0661]", "bgl[000x133]", "a[1-99999999]", "a[0-999]b[0-999]",
     "a[" + "9" * 99 + "]"],
)  # fmt: skip
def test_what_is_no_list_is_refused(text):
    with pytest.raises(UsageError, match="hosts"):
        nodes_of(text)


@given(st.text("ab01-,[] x", max_size=20))
def test_whatever_is_there_is_expanded_or_refused(text):
    try:
        names = nodes_of(text)
    except UsageError:
        return
    assert names
    assert not set("".join(names)) & set("[], ")


# -- allocations


def slurm(**more):
    return {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-3]", **more}


def test_without_a_scheduler_there_is_no_allocation():
    assert allocation({"PATH": "/bin", "JOB_ID": "7", "SLURM_CLUSTER_NAME": "main"}) is None


def test_slurm_says_hosts_cpus_and_the_end():
    found = allocation(slurm(SLURM_JOB_CPUS_PER_NODE="8(x2),4", SLURM_JOB_END_TIME="1764170000"))
    assert found == Allocation("slurm", "7", (Node("n1", 8), Node("n2", 8), Node("n3", 4)), 1764170000.0)


@pytest.mark.parametrize(
    ("variables", "slots"),
    [
        ({"SLURM_JOB_CPUS_PER_NODE": "16(x3)"}, [16, 16, 16]),
        ({"SLURM_TASKS_PER_NODE": "2,1(x2)", "SLURM_CPUS_PER_TASK": "4"}, [8, 4, 4]),
        ({"SLURM_TASKS_PER_NODE": "2(x3)"}, [2, 2, 2]),
        ({}, [0, 0, 0]),
        ({"SLURM_JOB_CPUS_PER_NODE": "8"}, [0, 0, 0]),  # of other hosts: a step of fewer
    ],
)
def test_slots_are_the_cpus_of_the_job(variables, slots):
    assert [node.slots for node in allocation(slurm(**variables)).nodes] == slots


@pytest.mark.parametrize("text", ["8(x", "x", "8(x99999999)", "8,,8", "-1", "8(2)", "٨"])
def test_counts_that_are_none_are_refused_by_name(text):
    with pytest.raises(UsageError, match="SLURM_JOB_CPUS_PER_NODE"):
        allocation(slurm(SLURM_JOB_CPUS_PER_NODE=text))


@pytest.mark.parametrize(
    ("lines", "variables", "nodes"),
    [
        ("a a a b b", {}, [Node("a", 3), Node("b", 2)]),  # ppn=, or mpiprocs=
        ("a b a", {}, [Node("a", 2), Node("b", 1)]),
        ("a b", {"NCPUS": "8"}, [Node("a", 8), Node("b", 8)]),  # select=2:ncpus=8
        ("a a b b", {"PBS_NUM_PPN": "2"}, [Node("a", 2), Node("b", 2)]),
    ],
)
def test_pbs_lists_a_host_once_a_process(tmp_path, lines, variables, nodes):
    (tmp_path / "nodes").write_text("\n".join(lines.split()) + "\n\n")
    found = allocation({"PBS_JOBID": "7.server", "PBS_NODEFILE": str(tmp_path / "nodes"), **variables})
    assert found == Allocation("pbs", "7.server", tuple(nodes), None)


@pytest.mark.parametrize("text", [None, "", "\n"])
def test_a_list_of_pbs_that_is_not_there_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "nodes").write_text(text)
    with pytest.raises(UsageError, match="PBS_NODEFILE"):
        allocation({"PBS_JOBID": "7", "PBS_NODEFILE": str(tmp_path / "nodes")})


def test_lsf_lists_hosts_and_slots():
    found = allocation({"LSB_JOBID": "7", "LSB_MCPU_HOSTS": "a 8 b 4 "})
    assert found == Allocation("lsf", "7", (Node("a", 8), Node("b", 4)), None)


def test_grid_engine_lists_hosts_slots_and_queues(tmp_path):
    (tmp_path / "hosts").write_text("a 8 all.q@a UNDEFINED\nb 4 all.q@b UNDEFINED\na 2 other.q@a UNDEFINED\n")
    found = allocation({"JOB_ID": "7", "PE_HOSTFILE": str(tmp_path / "hosts")})
    assert found == Allocation("sge", "7", (Node("a", 10), Node("b", 4)), None)


@pytest.mark.parametrize("text", ["a", "a x", "a 8 b", " "])
def test_pairs_of_lsf_that_are_none_are_refused(text):
    with pytest.raises(UsageError, match="LSB_MCPU_HOSTS"):
        allocation({"LSB_JOBID": "7", "LSB_MCPU_HOSTS": text})


# -- ends


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2-03:04:05\n", 183845), ("3:04:05", 11045), ("4:05", 245), ("0:00", 0), ("UNLIMITED", None), ("INVALID", None)],
)
def test_the_time_left_of_slurm_is_read(text, seconds):
    assert schedulers.time_left(text) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("    Resource_List.walltime = 02:00:00\n    resources_used.walltime = 00:30:00\n", 5400),
        ("    Resource_List.walltime = 02:00:00\n", 7200),
        ("    Resource_List.walltime = 00:01:00\n    resources_used.walltime = 00:02:00\n", 0),
        ("    Resource_List.walltime = 02:00:00\n    Walltime.Remaining = 3542\n", 3542),
        ("    Resource_List.ncpus = 2\n", None),
        ("", None),
    ],
)
def test_the_time_left_of_pbs_is_read(text, seconds):
    assert schedulers.walltime_left(f"Job Id: 7.server\n    Job_Name = x\n{text}    comment = a = b\n") == seconds


# -- jobs, with programs of these names


@pytest.fixture
def shared(tmp_path):
    """A folder on what would be a shared home, with a file of secrets in it."""
    folder = tmp_path / "state of 100%"
    folder.mkdir(mode=0o700)
    (folder / "secrets").write_text("amqps://user:s3cret@head/\n")
    (folder / "secrets").chmod(0o600)
    return folder


def calls(fake):
    return [json.loads(line) for line in (fake / "calls").read_text().splitlines()]


#: Stands for a worker: says where it is, and ends at SIGTERM as one that has handed back its parts.
WORKER = [
    "/bin/sh", "-c",
    "trap 'echo handed back; exit 0' TERM; read -r url; echo pid $$ url $url; while :; do sleep 0.05; done",
]  # fmt: skip


def worker_in(folder, count):
    """Return the process ids of that many workers, by their logs."""

    def pids():
        texts = [path.read_text() for pattern in ("*.log", "*.OU") for path in folder.glob(pattern)]
        found = [int(number) for text in texts for number in re.findall(r"pid (\d+) url amqps://user:s3cret@", text)]
        return found if len(found) == count else None

    return wait_until(pids, f"{count} workers")


def submitted(kind, count, shared, *options):
    script = schedulers.script_of(kind, WORKER, shared / "secrets", options)
    return schedulers.submitted(kind, count, list(options), script, shared)


@pytest.mark.parametrize("kind", ["slurm", "pbs"])
def test_jobs_run_workers_until_they_are_cancelled(fake_scheduler, shared, kind):
    ids = submitted(kind, 3, shared)
    pids = worker_in(shared, 3)
    assert sum(schedulers.states(kind, ids).values()) == 3
    schedulers.cancelled(kind, ids)
    wait_until(lambda: not any(map(is_running, pids)), "the workers to end")
    assert schedulers.states(kind, ids) == {}
    logs = [path.read_text() for pattern in ("*.log", "*.OU") for path in shared.glob(pattern)]
    assert all("handed back" in log for log in logs)


@pytest.mark.parametrize("kind", ["slurm", "pbs"])
def test_the_batch_shell_is_the_worker(fake_scheduler, shared, kind):
    submitted(kind, 1, shared)
    (pid,) = worker_in(shared, 1)
    (job,) = (fake_scheduler / "jobs").iterdir()
    assert int(job.read_text()) == pid


@pytest.mark.parametrize("kind", ["slurm", "pbs"])
def test_no_secret_is_in_an_argument_or_the_script(fake_scheduler, shared, monkeypatch, kind):
    monkeypatch.setenv("PYMAR_KEY", "s3cret-key")
    submitted(kind, 1, shared)
    (pid,) = worker_in(shared, 1)
    assert "s3cret" not in (fake_scheduler / "calls").read_text()
    assert "s3cret" not in (shared / f"worker.{kind}").read_text()
    assert "s3cret-key" not in Path(f"/proc/{pid}/environ").read_text()
    assert stat.S_IMODE((shared / f"worker.{kind}").stat().st_mode) == 0o600


def test_slurm_is_asked_for_sigterm_a_minute_before_the_end(fake_scheduler, shared):
    submitted("slurm", 4, shared, "-p", "short", "-t", "2:00:00")
    (call,) = calls(fake_scheduler)
    assert {"--signal=B:TERM@60", "--no-requeue", "--array=1-4", "--nodes=1", "--ntasks=1"} <= set(call)
    assert call[-5:-1] == ["-p", "short", "-t", "2:00:00"]


def test_the_name_of_the_cluster_goes_back_to_slurm(fake_scheduler, shared):
    (fake_scheduler / "clusters").touch()
    ids = submitted("slurm", 1, shared)
    worker_in(shared, 1)
    schedulers.cancelled("slurm", ids)
    assert calls(fake_scheduler)[-1] == ["scancel", "--clusters=main", "100"]


def test_a_job_of_pbs_sends_itself_sigterm_before_the_end(fake_scheduler, shared):
    submitted("pbs", 1, shared, "-l", "walltime=0:01:01")  # a second is left of it, and 5 s are the least
    (pid,) = worker_in(shared, 1)
    wait_until(lambda: not is_running(pid), "SIGTERM")
    assert "handed back" in next(shared.glob("*.OU")).read_text()


@pytest.mark.parametrize(
    "options",
    [
        ("-l", "select=1:ncpus=2,walltime=2:00:00"),
        ("-lwalltime=7200",),
        ("-l", "walltime=1:00:00", "-l", "walltime=120:00"),
    ],
)
def test_the_clock_of_pbs_is_a_minute_early(shared, options):
    assert "left=7140;" in schedulers.script_of("pbs", ["true"], shared / "secrets", options)


def test_a_clock_of_pbs_ends_with_its_worker(shared):
    script = schedulers.script_of("pbs", ["true"], shared / "secrets", ["-l", "walltime=2:00:00"])
    done = subprocess.run(["/bin/sh"], input=script, text=True, capture_output=True, timeout=60)
    assert done.returncode == 0  # also where the scheduler gives the script to the shell as its standard input


def test_without_a_wall_time_pbs_has_no_clock(shared):
    assert "kill" not in schedulers.script_of("pbs", ["true"], shared / "secrets", ["-q", "short"])


@pytest.mark.parametrize("kind", ["slurm", "pbs"])
def test_a_host_that_does_not_share_the_folder_says_so(shared, kind):
    script = schedulers.script_of(kind, ["true"], shared / "not here")
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "file system that all hosts share" in done.stderr


def test_jobs_of_pbs_are_submitted_all_or_none(fake_scheduler, shared):
    (fake_scheduler / "refuse").write_text("3 qsub: would exceed the queue's limit of jobs of one user")
    with pytest.raises(UsageError, match="limit of jobs"):
        submitted("pbs", 3, shared)
    pids = [int(path.read_text()) for path in (fake_scheduler / "jobs").iterdir()]
    assert len(pids) == 2
    wait_until(lambda: not any(map(is_running, pids)), "the first two to end")


def test_what_slurm_refuses_is_quoted(fake_scheduler, shared):
    (fake_scheduler / "refuse").write_text("1 sbatch: error: invalid partition specified: short")
    with pytest.raises(UsageError, match="invalid partition specified: short"):
        submitted("slurm", 1, shared)


@pytest.mark.parametrize(("kind", "unknown"), [("slurm", "7"), ("pbs", "7.server")])
def test_a_job_that_has_ended_long_ago_is_cancelled_without_an_error(fake_scheduler, kind, unknown):
    schedulers.cancelled(kind, [unknown])
    assert schedulers.states(kind, [unknown]) == {}


def test_nothing_is_asked_to_cancel_nothing(fake_scheduler):
    schedulers.cancelled("slurm", [])
    assert not (fake_scheduler / "calls").exists()


@pytest.mark.parametrize(
    ("kind", "option"),
    [("slurm", "--array=1-9"), ("slurm", "-a1-9"), ("slurm", "--wrap=true"), ("slurm", "--wait"), ("pbs", "-I"),
     ("pbs", "-J"), ("slurm", "--signal=USR1")],
)  # fmt: skip
def test_options_that_are_pymars_are_refused(fake_scheduler, shared, kind, option):
    with pytest.raises(UsageError, match=re.escape(option)):
        submitted(kind, 1, shared, option)
    assert not (fake_scheduler / "calls").exists()


def test_a_scheduler_that_is_not_there_is_named(shared, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="no sbatch here"):
        submitted("slurm", 1, shared)


def test_only_slurm_and_pbs_take_jobs(shared):
    with pytest.raises(UsageError, match="lsf"):
        submitted("lsf", 1, shared)


def test_a_step_of_slurm_runs_on_its_host_and_reads_our_standard_input(fake_scheduler):
    command = [*schedulers.launched(allocation(slurm()), "n2"), "sh", "-c", 'read line; echo "$SLURMD_NODENAME $line"']
    done = subprocess.run(command, input="s3cret\n", capture_output=True, text=True)
    assert done.stdout == "n2 s3cret\n"
    (call,) = calls(fake_scheduler)
    assert {"--jobid=7", "--nodelist=n2", "--overlap", "--mem=0"} <= set(call)
    assert "s3cret" not in " ".join(call)


def test_hosts_of_pbs_are_reached_by_ssh():
    assert schedulers.launched(Allocation("pbs", "7", (Node("a", 1),), None), "a") == []


def test_what_schedulers_copy_to_other_hosts_has_nothing_of_pymars():
    assert schedulers.scrubbed({"PYMAR_KEY": "a", "PYMAR_URL": "b", "HOME": "/root"}) == {"HOME": "/root"}


def test_the_end_is_asked_for_where_slurm_did_not_set_it(fake_scheduler):
    assert schedulers.ends_of(allocation(slurm()), 1000.0) == 4600.0


def test_an_end_that_nobody_tells_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert schedulers.ends_of(allocation(slurm()), time.time()) is None


# -- with workers and a broker

JOB = """
import time
import pymar

def square(number):
    time.sleep(0.05)
    return number * number

if __name__ == "__main__":
    print(sum(pymar.map(square, range(120), engine="amqp")))
"""


def test_a_job_is_exact_though_a_workers_wall_time_ends(fake_scheduler, shared, broker, monkeypatch):
    """What `--signal=B:TERM@60` does: SIGTERM to the batch shell, which is the worker."""
    file = shared / "job.py"
    file.write_text(JOB)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    environ = {"PYMAR_URL": broker.url, "PYMAR_KEY": new_key()}
    (shared / "secrets").write_text(json.dumps({"url": broker.url, "key": environ["PYMAR_KEY"]}) + "\n")
    worker = [sys.executable, "-m", "pymar", "worker", str(file), "-w", "1", f"--grace={schedulers.GRACE}"]
    script = schedulers.script_of("slurm", [*worker, "--from-stdin"], shared / "secrets")
    ids = schedulers.submitted("slurm", 2, [], script, shared)

    def logs():
        return [path.read_text() for path in shared.glob("*.log")]

    wait_until(lambda: sum("serving" in log for log in logs()) == 2, "two workers")

    job = subprocess.Popen([sys.executable, file], env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True)
    wait_until(lambda: sum("joined" in log for log in logs()) == 2, "both to compute")
    first = next((fake_scheduler / "jobs").iterdir())
    os.kill(int(first.read_text()), signal.SIGTERM)
    assert job.communicate()[0] == f"{sum(number * number for number in range(120))}\n"
    wait_until(lambda: schedulers.states("slurm", ids) == {"RUNNING": 1}, "one to be left")
    assert sum("asked to stop" in log for log in logs()) == 1
    schedulers.cancelled("slurm", ids)
    wait_until(lambda: not schedulers.states("slurm", ids), "the other one to end")
