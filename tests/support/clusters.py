"""Clusters that `pymar up` starts on the hosts of the tests, and jobs for them."""

import json
import subprocess
import sys

from places import ROOT

#: The interpreter of the tests is on each host, with this Pymar: no environment has to be made.
BARE = ("--bare", "--python", sys.executable)
SOURCE = {"PYTHONPATH": ROOT / "src"}
SUM = "import pymar\nprint(sum(pymar.map(lambda number: number * number, range(1000))))\n"
ANSWER = sum(number * number for number in range(1000))
#: 40 parts of 0.1 s, which note where they are computed.
SLOW = """
    import socket, time
    import pymar

    def slow(number):
        time.sleep(0.1)
        return number, socket.gethostname()

    answers = pymar.map(slow, range(40))
    print(sum(number for number, _ in answers), *sorted({host for _, host in answers}))
"""


def folder(hosts):
    return hosts.folder / "home" / ".local" / "state" / "pymar"


def clusters(hosts):
    return [path.parent.name for path in folder(hosts).glob("*/cluster.json")]


def state(hosts, name="default"):
    return json.loads((folder(hosts) / name / "cluster.json").read_text())


def ours(hosts):
    """Processes on this host that belong to a cluster of this bed."""
    done = subprocess.run(["ps", "-ewwo", "pid=,args="], capture_output=True, text=True, check=True)
    of_the_bed = ("/boot.sh", "sshd")
    lines = [line for line in done.stdout.splitlines() if str(hosts.folder) in line]
    return [line for line in lines if not any(word in line for word in of_the_bed)]


def up(pymar, *words, **options):
    return pymar("up", *BARE, *words, **options)


def some(hosts, count):
    return hosts.hosts(count, environ=SOURCE)
