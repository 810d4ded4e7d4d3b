"""What a job file has to offer, found out in a process of its own: agents never load a user's code themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from pymar.exceptions import UsageError
from pymar.jobfile import PRODUCER, SOURCE, code_of, load, names_of

_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_START = "import sys; sys.path.insert(0, sys.argv[1]); from pymar.inspection import main; main()"


def inspected(path: str, environ: dict[str, str]) -> dict[str, Any]:
    """ "code": its hash; "producers": their names, and those of their pools; "sources": their names.

    Raises:
        UsageError: it cannot be loaded; the message says where and why.
    """
    command = [sys.executable, "-P", "-c", _START, _PACKAGE_PARENT, path]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environ, check=False)
    if not done.stdout:
        raise UsageError(f"the job file {path} ends its process when it is loaded (exit code {done.returncode})")
    found: dict[str, Any] = json.loads(done.stdout)
    if "error" in found:
        raise UsageError(found["error"])
    return found


def main() -> None:
    """What is found in the file of the last argument, as JSON on stdout; what the file prints goes to stderr."""
    result = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    path = sys.argv[-1]
    found: dict[str, Any]
    try:
        module = load(path)
        pools = {name: str(vars(module)[name].routing_key()) for name in names_of(module, PRODUCER)}
        found = {"code": code_of(path), "producers": pools, "sources": names_of(module, SOURCE)}
    except UsageError as error:
        found = {"error": str(error)}
    print(json.dumps(found), file=result, flush=True)
    os._exit(0)  # threads that the file has started are none of our business
