"""Counts the lines that a user writes for the integral and the word count, in the files of `written/`; runs them first.

Blank lines, comments and docstrings do not count. `python benchmarks/written.py [--json FILE]`
"""

import argparse
import ast
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import tokenize
from pathlib import Path

HERE = Path(__file__).parent / "written"
WORKERS = {
    "celery": ("-m", "celery", "-A", "{module}", "worker", "-c", "2", "-l", "ERROR"),
    "dramatiq": ("-m", "dramatiq", "{module}", "--processes", "2", "--threads", "1"),
}
TEXT = "the cat and the dog and the bird\n" * 100_000
#: A text that the output of each has to contain.
ANSWERS = {"integral": "22023.4", "wordcount": "300000"}


def lines_of(path):
    """Return the number of lines with code."""
    text = path.read_text()
    tree = ast.parse(text)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    strings = [node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)]
    docstrings = {row for string in strings for row in range(string.lineno, string.end_lineno + 1)}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    layout = (tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    code = {row for token in tokens if token.type not in layout for row in range(token.start[0], token.end[0] + 1)}
    return len(code - docstrings)


def output_of(path, text):
    """Run a file, with workers if it needs them, and return what it prints."""
    task, _, system = path.stem.partition("_")
    worker = None
    if system in WORKERS:
        command = [sys.executable, *(word.format(module=path.stem) for word in WORKERS[system])]
        worker = subprocess.Popen(command, cwd=HERE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        command = [sys.executable, str(path), *([text] if task == "wordcount" else [])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    finally:
        if worker is not None:
            worker.send_signal(signal.SIGTERM)
            worker.wait()
    assert done.returncode == 0, done.stderr[-2_000:]
    return done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from servers import rabbitmq, redis

    found = {}
    os.environ |= {"C_FORCE_ROOT": "1", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    with rabbitmq() as amqp, redis() as results, tempfile.TemporaryDirectory() as folder:
        os.environ |= {"BROKER": f"amqp://127.0.0.1:{amqp}", "RESULTS": f"redis://127.0.0.1:{results}/0"}
        text = Path(folder, "text")
        text.write_text(TEXT)
        for path in sorted(HERE.glob("*.py")):
            task, _, system = path.stem.partition("_")
            output = output_of(path, str(text))
            assert ANSWERS[task] in output, (path, output)
            found.setdefault(system, {})[task] = lines_of(path)
            print(f"{path.stem}: {found[system][task]} lines", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
