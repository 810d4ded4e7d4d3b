"""Run jobs on one contender, in this process: `python contenders.py pool J1 J3`. One line of JSON a job."""

import json
import os
import subprocess
import sys
import time
from importlib import import_module

import jobs

#: Module and class of each contender.
CONTENDERS = {
    "serial": "on_this_host:Serial",
    "pool": "on_this_host:Pool",
    "executor": "on_this_host:Executor",
    "joblib": "on_this_host:Joblib",
    "mpire": "on_this_host:Mpire",
    "dask": "systems:Dask",
    "ray": "systems:Ray",
    "celery": "with_workers:Celery",
    "dramatiq": "with_workers:Dramatiq",
    "mrjob": "systems:Mrjob",
    "pyspark": "systems:Spark",
    "pymar-serial": "pymars:OnOneProcess",
    "pymar-processes": "pymars:Processes",
    "pymar-amqp": "with_workers:Amqp",
    "pymar-amqp-signed": "with_workers:Signed",
    "pymar-dask": "pymars:OnDask",
    "pymar-ray": "pymars:OnRay",
}
#: The jobs of contenders that cannot do all; and how many trivial parts the slowest gets, which takes 27 ms for one.
ONLY = {"mrjob": ("J5",)}
FEWER = {"pyspark": 500}
CHECKS = {
    "J1": jobs.check_integral,
    "J3": jobs.check_trivial,
    "J5": jobs.check_words,
    "J6": jobs.check_pairs,
}


def contender(name):
    module, _, attribute = CONTENDERS[name].partition(":")
    return getattr(import_module(module), attribute)()


def timed(call, *arguments):
    began = time.perf_counter()
    value = call(*arguments)
    return time.perf_counter() - began, value


def measure(one, job):
    """Return the figure of a job, after a check of its answer."""
    if job == "J2":
        data = list(range(jobs.INTS))
        seconds, value = timed(one.J2, data)
        jobs.check_squares(value)
        return seconds
    if job == "J3L":
        times = []
        for number in range(10 + jobs.CALLS):
            seconds, value = timed(one.J3L, number)
            assert value == number
            times.append(seconds)
            if sum(times) > 10 and number > 30:
                break
        times = sorted(times[10:])
        return times[len(times) // 2] * 1e3
    seconds, value = timed(getattr(one, job))
    CHECKS[job](value)
    return jobs.TRIVIAL / seconds if job == "J3" else seconds


def whole_process(name):
    """Return J4: seconds from the start of a process that computes four trivial parts to its end."""
    command = [sys.executable, __file__, name, "--only-j4"]
    return timed(lambda: subprocess.run(command, check=True, stderr=subprocess.DEVNULL))[0]


def only_j4(name):
    one = contender(name)
    if hasattr(one, "prepare"):  # its workers are running already
        os.environ.update(one.environ)
        one.prepare()
        assert one.J4() == 6
        return
    with one:
        assert one.J4() == 6


def main(name, *wanted):
    def report(job, value):
        print(json.dumps({"job": job, "value": value}), flush=True)

    wanted = [job for job in wanted if job in ONLY.get(name, wanted)]
    jobs.TRIVIAL = FEWER.get(name, jobs.TRIVIAL)
    one = contender(name)
    if "J4" in wanted and not hasattr(one, "prepare"):
        report("J4", whole_process(name))
    with one:
        assert one.J4() == 6
        time.sleep(0.3)  # until workers that start in the background are up: only J4 measures a start
        if "J4" in wanted and hasattr(one, "prepare"):
            report("J4", whole_process(name))
        for job in wanted:
            if job not in ("J4", "stop"):
                report(job, measure(one, job))
        began = time.perf_counter()
    if "stop" in wanted:
        report("stop", time.perf_counter() - began)


if __name__ == "__main__":
    only_j4(sys.argv[1]) if sys.argv[2:] == ["--only-j4"] else main(*sys.argv[1:])
