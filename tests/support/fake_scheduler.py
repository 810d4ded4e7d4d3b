"""sbatch, srun, squeue, scancel, qsub, qstat and qdel that run jobs as processes of this host: no Slurm, and no PBS.

It is a program of its own, called by each of these names. FAKE_SCHEDULER names the folder where it keeps what it was
called with (`calls`, a line of JSON each) and its jobs (`jobs/ID`: the process id). A file `refuse` there has the call
of that number refused, with its text.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

HOME = Path(os.environ["FAKE_SCHEDULER"])


def value(options, *names, default=""):
    """The value of an option, as `--name=value`, `--name value` or `-n value`; the last one counts."""
    found = default
    for at, option in enumerate(options):
        for name in names:
            if option == name:
                found = options[at + 1]
            elif option.startswith(f"{name}="):
                found = option.partition("=")[2]
    return found


def run(job, script, log, **environ):
    text = Path(script).read_text()
    with open(log, "ab") as out:
        process = subprocess.Popen(
            ["/bin/sh", "-c", text], env={**os.environ, **environ}, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    (HOME / "jobs" / job).write_text(str(process.pid))


def is_running(job):
    with contextlib.suppress(OSError):
        pid = (HOME / "jobs" / job).read_text()
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def jobs_of(ids):
    there = [path.name for path in (HOME / "jobs").iterdir()]
    found = [job for job in there if job in ids or job.partition("_")[0] in ids]
    return sorted(found)


def sbatch(options):
    number = str(100 + len(list((HOME / "jobs").iterdir())))
    tasks = int(re.fullmatch(r"1-(\d+)", value(options, "--array", default="1-1"))[1])
    for task in range(1, tasks + 1):
        log = value(options, "--output").replace("%A", number).replace("%a", str(task)).replace("%%", "%")
        run(f"{number}_{task}", options[-1], log, SLURM_JOB_ID=number, SLURM_ARRAY_TASK_ID=str(task))
    return f"{number};main" if (HOME / "clusters").exists() else number


def qsub(options):
    number = f"{200 + len(list((HOME / 'jobs').iterdir()))}.server"
    run(number, options[-1], f"{value(options, '-o')}{number}.OU", PBS_JOBID=number)
    return number


def squeue(options):
    if "%L" in value(options, "--format"):
        return "1:00:00"
    return "\n".join("RUNNING" for job in jobs_of(value(options, "--jobs").split(",")) if is_running(job))


def scancel(options):
    jobs = jobs_of([option for option in options if not option.startswith("-")])
    if not jobs:
        sys.exit("scancel: error: Kill job error on job id 7: Invalid job id specified")
    end(jobs)


def qstat(options):
    if not jobs_of(options):
        sys.exit(f"qstat: Unknown Job Id {options[-1]}")
    return f"Job Id: {options[-1]}\n    Job_Name = pymar\n    job_state = {'R' if is_running(options[-1]) else 'C'}\n"


def qdel(options):
    if not jobs_of(options):
        sys.exit(f"qdel: Unknown Job Id {options[-1]}")
    end(jobs_of(options))


def end(jobs):
    for job in jobs:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int((HOME / "jobs" / job).read_text()), signal.SIGTERM)


def srun(options):
    first = next(at for at, option in enumerate(options) if not option.startswith("-"))
    os.environ["SLURMD_NODENAME"] = value(options[:first], "--nodelist")
    os.execvp(options[first], options[first:])


name, options = os.path.basename(sys.argv[0]), sys.argv[1:]
with open(HOME / "calls", "a") as calls:
    calls.write(json.dumps([name, *options]) + "\n")
with contextlib.suppress(OSError):
    at, _, text = (HOME / "refuse").read_text().partition(" ")
    if len((HOME / "calls").read_text().splitlines()) == int(at):
        sys.exit(text)
print(globals()[name](options) or "")
