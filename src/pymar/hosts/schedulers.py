"""Slurm, PBS, LSF and Grid Engine: which hosts an allocation has and until when; jobs that are workers.

    inside an allocation     allocation(environ)  its hosts and the slots of each, by the variables that are set there
                             launched(it, host)   what starts a command on one of them, and gives it our standard input
    outside of one           script_of(...)       a batch script that becomes a worker
                             submitted(...)       some jobs of it; states(...), cancelled(...): of those

The end of an allocation, the wall time, kills what runs. So Slurm, or with PBS the script itself, sends the worker
SIGTERM `BEFORE_END` seconds earlier: it has `GRACE` seconds to finish its parts, and hands back the others.

What the schedulers accept and set is from their manuals, since none of them was there to try it: sbatch(1), srun(1),
scancel(1) and squeue(1) of Slurm; qsub(1B) and qstat(1B) of OpenPBS and TORQUE; the environment variables of IBM
Spectrum LSF; sge_pe(5) of Grid Engine.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pymar.exceptions import UsageError
from pymar.serialization.redaction import printable

#: Seconds between SIGTERM and the end of a job. Slurm may send it up to a minute earlier still.
BEFORE_END = 60
#: For the option --grace of a worker in a job: less than that, since to hand parts back takes time too.
GRACE = 45
#: Hosts that a list may have: more are a slip, as in node[1-99999999].
MOST_NODES = 65_536
#: Seconds that a command of a scheduler may take: a busy one is slow to answer.
_PATIENCE = 120.0


class Node(NamedTuple):
    """A host of an allocation."""

    host: str
    slots: int
    """Its CPUs that belong to the allocation; 0 if that is unknown."""


class Allocation(NamedTuple):
    """What a scheduler has given to the job that this process is in."""

    kind: str
    """"slurm", "pbs", "lsf" or "sge"."""
    job: str
    nodes: tuple[Node, ...]
    ends: float | None
    """The time of its end, in seconds since 1970; None if the environment does not say it."""


def allocation(environ: Mapping[str, str]) -> Allocation | None:
    """Return the allocation that this process is in, by its environment; None if it is in none.

    Of a heterogeneous job of Slurm, only the first component is seen.

    Raises:
        UsageError: what the scheduler has set is not understood, or its file cannot be read.
    """
    if (job := environ.get("SLURM_JOB_ID", "")) and (text := environ.get("SLURM_JOB_NODELIST", "")):
        hosts = nodes_of(text)
        end = environ.get("SLURM_JOB_END_TIME", "")
        nodes = tuple(map(Node, hosts, _slurm_slots(environ, len(hosts))))
        return Allocation("slurm", job, nodes, float(end) if end.isdigit() else None)
    if (job := environ.get("PBS_JOBID", "")) and (path := environ.get("PBS_NODEFILE", "")):
        counts = Counter(_lines("PBS_NODEFILE", path))
        # A line for each process; of PBS Pro without mpiprocs= just one for each chunk, and NCPUS has its CPUs.
        least = max(_number(environ.get("PBS_NUM_PPN", "")), _number(environ.get("NCPUS", "")))
        return Allocation("pbs", job, tuple(Node(host, max(count, least)) for host, count in counts.items()), None)
    if (job := environ.get("LSB_JOBID", "")) and (text := environ.get("LSB_MCPU_HOSTS", "")):
        return Allocation("lsf", job, _pairs("LSB_MCPU_HOSTS", text.split()), None)
    if (job := environ.get("JOB_ID", "")) and (path := environ.get("PE_HOSTFILE", "")):
        words = [word for line in _lines("PE_HOSTFILE", path) for word in line.split()[:2]]
        return Allocation("sge", job, _pairs("PE_HOSTFILE", words), None)
    return None


def nodes_of(text: str) -> list[str]:
    """Return the hosts in a list of Slurm's, as `node[01-03,7],gpu1`: in its order, each once.

    A name may have several brackets; the last one varies fastest. Numbers keep the zeros that the first of a range has.

    Raises:
        UsageError: it is no such list, or names more than MOST_NODES hosts.
    """
    found: dict[str, None] = {}
    for name in _names(text):
        found[name] = None
        if len(found) > MOST_NODES:
            raise UsageError(f"{_shown(text)} names more than {MOST_NODES:,} hosts")
    if not found:
        raise UsageError("the list of hosts is empty")
    return list(found)


def ends_of(given: Allocation, now: float) -> float | None:
    """Return when an allocation ends, in seconds since 1970, by asking the scheduler if the environment did not say it;
    None if that is unknown, or if it has no end."""
    if given.ends is not None:
        return given.ends
    try:
        if given.kind == "slurm":
            left = time_left(_ran(["squeue", "--noheader", "--format=%L", f"--jobs={given.job}"]))
        elif given.kind == "pbs":
            left = walltime_left(_ran(["qstat", "-f", given.job]))
        else:
            left = None
    except UsageError:
        return None
    return None if left is None else now + left


def time_left(text: str) -> float | None:
    """Return the seconds in what squeue prints for %L: `2-03:04:05`, `3:04:05`, `4:05`; None for `UNLIMITED`."""
    found = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", text.strip())
    if not found:
        return None
    days, hours, minutes, seconds = (int(group or 0) for group in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def walltime_left(text: str) -> float | None:
    """Return the seconds until the end of a job of PBS, from what `qstat -f` prints; None if it has no wall time."""
    fields = dict(re.findall(r"^\s*([\w.]+) = (.*?)\s*$", text, re.MULTILINE))
    if (left := fields.get("Walltime.Remaining", "")).isdigit():  # TORQUE
        return float(left)
    limit = _seconds(fields.get("Resource_List.walltime", ""))
    return None if limit is None else max(0.0, limit - (_seconds(fields.get("resources_used.walltime", "0")) or 0.0))


def launched(given: Allocation, host: str) -> list[str]:
    """Return the start of a command line; a command behind it runs on that host of the allocation.

    Its standard input and output are those of the command line. Start it in an environment from `scrubbed`. For PBS it
    is empty: pbsdsh forwards no standard input, so use ssh, which sites with PBS allow to the hosts of one's own job.
    """
    if given.kind == "slurm":
        # --overlap: beside other steps, on the same CPUs; without --exact, a step has all CPUs of the job on its host,
        # --mem=0 all of the memory, and --cpu-bind=none does not bind the one task to one of the cores.
        step = ["--nodes=1", "--ntasks=1", "--overlap", "--mem=0", "--cpu-bind=none", "--export=ALL", "--quiet"]
        return ["srun", f"--jobid={given.job}", *step, f"--nodelist={host}"]
    return {"lsf": ["blaunch", host], "sge": ["qrsh", "-inherit", host]}.get(given.kind, [])


def scrubbed(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without Pymar's variables: schedulers copy it to other hosts, and keep it in files."""
    return {name: value for name, value in environ.items() if not name.startswith("PYMAR_")}


def script_of(kind: str, command: Sequence[str], secrets: Path, options: Sequence[str] = ()) -> str:
    """Return a batch script that becomes this command, with a file as its standard input.

    The script has no secrets in it, since the scheduler keeps copies; the file has them, is of mode 600, and has to be
    on a file system that all hosts share. `options` are those of the submission, for the wall time among them.
    """
    file = shlex.quote(str(secrets))
    lines = [
        "#!/bin/sh",
        "umask 077",
        f'[ -r {file} ] || {{ echo "no" {file} "on $(hostname): that folder has to be on a file system that all hosts '
        'share" >&2; exit 1; }',
    ]
    if kind == "pbs" and (limit := _pbs_limit(options)) is not None:
        # PBS sends SIGTERM only at the end, and SIGKILL 10 s later: the script has a clock of its own.
        lines.append(
            f"( left={max(5, int(limit) - BEFORE_END)}; "
            "while [ $left -gt 0 ]; do sleep 5; left=$((left - 5)); kill -0 $$ || exit; done; kill -TERM $$ ) "
            "> /dev/null 2>&1 < /dev/null &"
        )
    # exec: the signals that the scheduler sends to the batch shell are for the worker.
    lines.append(f"exec {shlex.join(command)} < {file}")
    return "\n".join(lines) + "\n"


def submitted(kind: str, count: int, options: Sequence[str], script: str, folder: Path) -> list[str]:
    """Submit `count` jobs of a script, with further options of sbatch or qsub, and return their ids; of Slurm, that of
    one job array.

    Each job is one task on one host, is not queued again after it was ended, and writes its output into `folder`, where
    the script is written too.

    Raises:
        UsageError: there is no such scheduler here, or it refuses; then nothing is left in its queue.
    """
    _check_options(kind, options)
    path = folder / f"worker.{kind}"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(script)
    if kind == "slurm":
        log = f"{str(folder).replace('%', '%%')}/worker-%A_%a.log"
        command = ["sbatch", "--parsable", "--job-name=pymar", f"--array=1-{count}", "--nodes=1", "--ntasks=1"]
        command += ["--no-requeue", f"--signal=B:TERM@{BEFORE_END}", f"--output={log}", *options, str(path)]
        return [_id_by(command)]
    ids: list[str] = []
    try:
        for _ in range(count):
            # -S: else the login shell of the user reads the script, whatever its first line says.
            command = ["qsub", "-N", "pymar", "-S", "/bin/sh", "-j", "oe", "-o", f"{folder}/", "-r", "n"]
            ids.append(_id_by([*command, *options, str(path)]))
    except UsageError:
        if ids:
            cancelled(kind, ids)
        raise
    return ids


def states(kind: str, ids: Sequence[str]) -> dict[str, int]:
    """Return how many of these jobs are in which state, in the scheduler's words: {"RUNNING": 3, "PENDING": 1} of
    Slurm, {"R": 3, "Q": 1} of PBS. Jobs that have ended are not counted."""
    if kind == "slurm":
        asked = [
            ["squeue", "--noheader", "--array", "--format=%T", *where, f"--jobs={','.join(jobs)}"]
            for where, jobs in _by_cluster(ids)
        ]
        found = [word for command in asked for word in _known(command).split()]
    else:
        texts = [_known(["qstat", "-f", one]) for one in ids]
        found = [state for text in texts for state in re.findall(r"^\s*job_state = (\w+)", text, re.MULTILINE)]
    return dict(Counter(state for state in found if state not in _ENDED))


def cancelled(kind: str, ids: Sequence[str]) -> None:
    """Cancel jobs; those that have ended are no error.

    All processes of those that run get SIGTERM, slots too, whose parts are computed again by others; and SIGKILL some
    time later, after 30 s by Slurm's default (KillWait), 10 s by that of PBS (kill_delay).

    Raises:
        UsageError: the scheduler refuses, or is not there.
    """
    if not ids:
        return
    if kind == "slurm":
        for where, jobs in _by_cluster(ids):
            _known(["scancel", *where, *jobs])
    else:
        for one in ids:  # qdel stops at the first that it does not know
            _known(["qdel", one])


_PROGRAMS = {"slurm": "sbatch", "pbs": "qsub"}
_QUEUES = {"sbatch": "squeue --me", "qsub": "qstat"}
_ENDED = frozenset({"C", "F", "E", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "COMPLETING", "NODE_FAIL"})
#: What schedulers say of a job that has ended long ago.
_UNKNOWN = re.compile(r"invalid job id|unknown job ?id|has finished|already completed|invalid state", re.IGNORECASE)
#: Options that make something else of what is submitted than jobs of one worker each.
_REFUSED = {
    "slurm": re.compile(r"-a.*|--array(=.*)?|--wrap(=.*)?|-W|--wait|--test-only|--signal(=.*)?|-h|--help|-V|--version"),
    "pbs": re.compile(r"-I|-J.*|-t.*|--version|-z"),
}


def _check_options(kind: str, options: Sequence[str]) -> None:
    if kind not in _PROGRAMS:
        raise UsageError(f"jobs can be submitted to Slurm and PBS, not to {kind!r}")
    for option in options:
        if _REFUSED[kind].fullmatch(option):
            raise UsageError(f"the option {printable(option)} of {_PROGRAMS[kind]} is Pymar's to give: leave it out")


def _id_by(command: Sequence[str]) -> str:
    """Return the id of the job that this command submits: what it prints last, since sites may have it say more."""
    words = _ran(command).split()
    if not words:
        raise UsageError(f"{command[0]} printed no id of a job: see {_QUEUES[command[0]]} for what is there")
    return words[-1]


def _by_cluster(ids: Sequence[str]) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the option that names a cluster, and ids of jobs there: sbatch prints `id;cluster` if there are several."""
    clusters: dict[str, list[str]] = {}
    for one in ids:
        job, _, cluster = one.partition(";")
        clusters.setdefault(cluster, []).append(job)
    for cluster, jobs in clusters.items():
        yield ([f"--clusters={cluster}"] if cluster else []), jobs


def _known(command: Sequence[str]) -> str:
    """Return what a command prints; nothing if it does not know the job, which has ended."""
    try:
        return _ran(command)
    except UsageError as error:
        if _UNKNOWN.search(str(error)):
            return ""
        raise


def _ran(command: Sequence[str]) -> str:
    """Return what a command of a scheduler prints.

    Raises:
        UsageError: it is not there, fails, or does not answer; the message has the last line that it says.
    """
    name = command[0]
    environ = {**scrubbed(os.environ), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_PATIENCE,
        )  # fmt: skip
    except FileNotFoundError:
        raise UsageError(
            f"there is no {name} here: run this where the scheduler's commands are, as a login node"
        ) from None
    except OSError as error:
        raise UsageError(f"{name} cannot be started: {error}") from error
    except subprocess.TimeoutExpired:
        raise UsageError(f"{name} does not answer within {_PATIENCE:g} s: try again later") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() + done.stdout.splitlines() if line.strip()] or ["nothing"]
        # What is wrong comes first or last; Slurm begins the reason with "error:" and may go on with hints.
        line = next((line for line in said if "error" in line.lower()), said[-1])
        raise UsageError(f"{name} failed with code {done.returncode}: {printable(line.strip()[:500])}")
    return done.stdout


def _slurm_slots(environ: Mapping[str, str], count: int) -> list[int]:
    """Return the CPUs of each host: `8(x2),4` stands for 8, 8, 4."""
    if text := environ.get("SLURM_JOB_CPUS_PER_NODE", ""):
        slots = _repeated("SLURM_JOB_CPUS_PER_NODE", text)
    elif text := environ.get("SLURM_TASKS_PER_NODE", ""):
        each = max(1, _number(environ.get("SLURM_CPUS_PER_TASK", "")))
        slots = [tasks * each for tasks in _repeated("SLURM_TASKS_PER_NODE", text)]
    else:
        return [0] * count
    return slots if len(slots) == count else [0] * count


def _repeated(name: str, text: str) -> list[int]:
    found: list[int] = []
    for item in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:\(x(\d{1,9})\))?", item.strip(), re.ASCII)
        times = int(match[2] or 1) if match else 0
        if not match or len(found) + times > MOST_NODES:
            raise UsageError(f"{name} is {_shown(text)}, and numbers such as 8(x2),4 were expected")
        found += [int(match[1])] * times
    return found


_PIECE = re.compile(r"([^\[\],\s]*)(?:\[([^\[\]\s]*)\])?", re.ASCII)
_RANGE = re.compile(r"(\d{1,15})(?:-(\d{1,15}))?", re.ASCII)


def _names(text: str) -> Iterator[str]:
    """Yield the names of a list, one by one: a slip in it may stand for more than there is memory."""
    at, text = 0, text.strip()
    while at < len(text):
        pieces: list[tuple[str, list[tuple[int, int, int]]]] = []
        while at < len(text) and text[at] != ",":
            match = _PIECE.match(text, at)
            if not match or match.end() == at:
                raise _no_list(text)
            pieces.append((match[1], [] if match[2] is None else _ranges(match[2], text)))
            at = match.end()
        if not pieces or at == len(text) - 1:
            raise _no_list(text)
        at += 1
        yield from _spelled(pieces)


def _spelled(pieces: Sequence[tuple[str, list[tuple[int, int, int]]]]) -> Iterator[str]:
    """Yield all names of one item of a list; the last bracket varies fastest."""
    if not pieces:
        yield ""
        return
    plain, ranges = pieces[0]
    for low, high, width in ranges or [(0, 0, -1)]:
        for number in range(low, high + 1):
            digits = f"{number:0{width}d}" if width >= 0 else ""
            for rest in _spelled(pieces[1:]):
                yield f"{plain}{digits}{rest}"


def _ranges(inside: str, text: str) -> list[tuple[int, int, int]]:
    """Return the first and last number and the digits of each range in a bracket."""
    found = []
    for item in inside.split(","):
        match = _RANGE.fullmatch(item)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not match or low > high:
            raise _no_list(text)
        found.append((low, high, len(match[1])))
    return found


def _no_list(text: str) -> UsageError:
    return UsageError(f"{_shown(text)} is no list of hosts: write it as node[01-16],gpu1")


def _shown(text: str) -> str:
    return printable(repr(text if len(text) <= 100 else f"{text[:97]}..."))


def _lines(name: str, path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name}, {path}, cannot be read: {error}: run this on the first host of the job") from error
    if not lines:
        raise UsageError(f"{name}, {path}, is empty: the allocation has no hosts")
    return lines


def _pairs(name: str, words: Sequence[str]) -> tuple[Node, ...]:
    """Return the nodes in `host 4 host 8`; a host that is there twice has the sum."""
    counts: Counter[str] = Counter()
    for host, slots in zip(words[::2], words[1::2], strict=False):
        if not slots.isdecimal():
            raise UsageError(f"{name} has {_shown(slots)} where the number of slots of {_shown(host)} was expected")
        counts[host] += int(slots)
    if not counts or len(words) % 2:
        raise UsageError(f"{name} has no pairs of a host and its slots")
    return tuple(map(Node, counts.keys(), counts.values()))


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _seconds(text: str) -> float | None:
    """Return the seconds in a time of PBS's: `2:00:00`, `30:00`, `1800`."""
    if not re.fullmatch(r"\d{1,9}(:\d{1,9}){0,3}(\.\d+)?", text, re.ASCII):
        return None
    total = 0.0
    fields = text.split(":")
    for field, factor in zip(reversed(fields), (1, 60, 3600, 86400), strict=False):
        total += float(field) * factor
    return total


def _pbs_limit(options: Sequence[str]) -> float | None:
    """Return the wall time among options of qsub, in seconds; None if they have none."""
    found = None
    for option, before in zip(options, ["", *options], strict=False):
        if before == "-l" or option.startswith("-l"):
            for match in re.finditer(r"(?:^|,|-l)walltime=([\d:.]+)", option):
                found = _seconds(match[1])
    return found
