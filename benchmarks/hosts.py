"""From nothing to the first answer on hosts that are reached by ssh: commands, seconds, lines of output, what is left.

    python benchmarks/hosts.py [--hosts 4] [--rounds 3] [pymar] [dask]

The hosts are those of the tests (tests/support/sshd.py): an sshd each, in namespaces of this machine, so all share its
cores, and the network costs nothing. The answer is a sum over 100 calls, asked for as soon as the start has been typed;
it counts once all hosts compute. Seconds are from the first command to the answer, and from Ctrl-C (or `pymar down`) to
the end of that command; "killed" is by kill -9 of what holds it. What is left is counted 5 s later, on all hosts:
processes, and files in the home and in /tmp that were not there before the round.

"to be made": the hosts have Python and nothing else. Dask is then installed once, into a folder that all hosts share,
which is the least that its documentation asks for; Pymar makes an environment on each host.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path += [str(Path(__file__).parent.parent / "tests" / name) for name in ("", "support")]
from sshd import Bed  # - the path above leads to it

#: Seconds that anything may take here.
PATIENCE = 180
#: Seconds after which what is still there is left.
LEFT_AFTER = 5.0

DASK_JOB = """
import sys
from distributed import Client

def square(number):
    return number * number

if __name__ == "__main__":
    client = Client(f"{sys.argv[1]}:8786", timeout=60)
    client.wait_for_workers(int(sys.argv[2]))
    print(sum(client.gather(client.map(square, range(100)))))
"""
PYMAR_JOB = """
import pymar

def square(number):
    return number * number

if __name__ == "__main__":
    print(sum(pymar.map(square, range(100))))
"""
ANSWER = str(sum(number * number for number in range(100)))


class Typed:
    """What a user types, one command after another, and all that is printed."""

    def __init__(self, bed):
        self.bed, self.commands, self.started = bed, [], time.monotonic()
        self.output = open(bed.folder / "home" / "output", "w+")  # noqa: SIM115 - as long as the round

    def run(self, *command):
        """Run a command to its end; return what it printed on stdout."""
        self.commands.append(command)
        done = subprocess.run(
            list(map(str, command)), env=self.bed.environ, cwd=self.bed.folder / "home", text=True, timeout=PATIENCE,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.output,
        )  # fmt: skip
        self.output.seek(0, os.SEEK_END)
        self.output.write(done.stdout)
        self.output.flush()
        if done.returncode:
            raise SystemExit(f"{command} has failed:\n{self.lines()[-3_000:]}")
        return done.stdout

    def hold(self, *command):
        """Start a command that holds its terminal."""
        self.commands.append(command)
        return subprocess.Popen(
            list(map(str, command)), env=self.bed.environ, cwd=self.bed.folder / "home", stdin=subprocess.DEVNULL,
            stdout=self.output, stderr=self.output, start_new_session=True,
        )  # fmt: skip

    def elapsed(self):
        return time.monotonic() - self.started

    def lines(self):
        return (self.bed.folder / "home" / "output").read_text()


def dask(bed, hosts, make):
    """`dask ssh` over a file of hosts; it holds a terminal, the job runs in another."""
    environment = bed.shared / "dask"
    typed = Typed(bed)
    if make:
        typed.run(sys.executable, "-m", "venv", environment)
        typed.run(environment / "bin" / "pip", "install", "-q", "distributed", "paramiko")
    file = bed.folder / "home" / "hosts.txt"
    file.write_text("".join(f"{host.address}\n" for host in hosts))
    (bed.folder / "home" / "job.py").write_text(DASK_JOB)
    holder = typed.hold(environment / "bin" / "dask", "ssh", "--hostfile", file, "--ssh-private-key", bed.key)
    answer = typed.run(environment / "bin" / "python", "job.py", hosts[0].address, len(hosts))
    return typed, answer, holder


def pymar(bed, hosts, make):
    """`pymar up` over a file of hosts; the job runs in the same terminal."""
    typed = Typed(bed)
    (bed.folder / "home" / "hosts.txt").write_text("".join(f"{host.name}\n" for host in hosts))
    (bed.folder / "home" / "job.py").write_text(PYMAR_JOB)
    typed.run(sys.executable, "-m", "pymar", "up", "-H", "hosts.txt")
    return typed, typed.run(sys.executable, "job.py"), None


def one_round(contender, bed, hosts, make, kill):
    """Return what is printed for a round."""
    before = files(hosts)
    typed, answer, holder = contender(bed, hosts, make)
    assert answer.split()[-1] == ANSWER, answer
    seconds, lines = typed.elapsed(), typed.lines().count("\n")
    ended = time.monotonic()
    if holder:
        os.killpg(holder.pid, signal.SIGKILL if kill else signal.SIGINT)
        holder.wait(PATIENCE)
    else:
        typed.run(sys.executable, "-m", "pymar", "down")
    ended = time.monotonic() - ended
    time.sleep(LEFT_AFTER)
    left = [line for host in hosts for line in host.processes()]
    result = {
        "commands": len(typed.commands),
        "seconds": seconds,
        "lines": lines,
        "seconds to end": ended,
        "lines with the end": typed.lines().count("\n"),
        "processes left": left,
        "files left": sorted(map(str, files(hosts) - before)),
    }
    for host in hosts:
        host.kill()
        host.boot()
    return result


def files(hosts):
    """Return the files of hosts, but for what all see."""
    folders = [folder for host in hosts for folder in (host.home, host.folder / "tmp")]
    return {path for folder in folders for path in folder.rglob("*") if path.is_file()}


def shown(values):
    low, high = min(values), max(values)
    if isinstance(low, int):
        return str(low) if low == high else f"{low} to {high}"
    return f"{statistics.median(values):.1f} ({low:.1f} to {high:.1f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contenders", nargs="*", default=["pymar", "dask"], help="pymar, dask")
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    for name in given.contenders:
        with tempfile.TemporaryDirectory(prefix="pymar-hosts-") as folder:
            (path := Path(folder) / "bed").mkdir()
            bed = Bed(path)
            if not bed.isolated:
                raise SystemExit("this needs network namespaces: run it as root")
            try:
                hosts = bed.hosts(given.hosts, shell="/bin/bash", internet=True)
                contender = {"pymar": pymar, "dask": dask}[name]
                kinds = [("to be made", True, False)] + [("in place", False, False)] * given.rounds
                kinds += [("in place, killed at the end", False, True)] if name == "dask" else []
                results = {}
                for kind, make, kill in kinds:
                    results.setdefault(kind, []).append(one_round(contender, bed, hosts, make, kill))
            finally:
                bed.close()
        for kind, rounds in results.items():
            print(f"{name}, environment {kind}, {given.hosts} hosts, {len(rounds)} rounds")
            for what, first in rounds[0].items():
                values = [one[what] for one in rounds]
                if isinstance(first, list):
                    lines = [line for value in values for line in value]
                    print(f"    {what:20} {len(lines)}", *lines[:4], sep="\n        ")
                else:
                    print(f"    {what:20} {shown(values)}")


if __name__ == "__main__":
    main()
