"""Why no worker computes a job, decided from what is known: without a broker."""

import pytest

from pymar.amqp import protocol
from pymar.amqp.why import Facts, causes, left_out, lines_of
from pymar.serialization.composed import POOL
from pymar.serialization.jobfile import code_of
from pymar.version import __version__

QUEUE = protocol.job_queue("node7", 4711, "x" * 24, "alice")
FACTS = Facts("Name", "Name", "c0de", "/here/job.py", "amqp://broker:5672", "3.11", True, [])


def here(name="node1 5", code="c0de", path="/there/job.py", python="3.11", running=0, trouble="", lines=b""):
    agent = protocol.Agent(name.encode(), name, "queue", 4)
    holds = [[b"\xaa" * 16, "Other", QUEUE, running, 0, 1.0]] if running else []
    return protocol.Here(agent, "Name", code, path, python, running, 1, holds, 0.0, trouble, lines)


def kinds(**known):
    return [cause.kind for cause in causes(FACTS._replace(**known))]


def test_each_cause_has_its_kind():
    assert kinds() == ["none"]
    assert kinds(blocked="memory") == ["blocked"]
    assert kinds(consumers=2) == ["key"]
    assert kinds(consumers=2, has_key=False) == ["keyed"]
    assert kinds(consumers=2, junk=["it is not signed, and this side has a key: ..."]) == ["keyless"]
    assert kinds(consumers=2, junk=["its version of Pymar's protocol is not 4, ..."]) == ["version"]
    assert kinds(answers=[here()]) == ["idle"]
    assert kinds(answers=[here(running=1)]) == ["busy"]
    assert kinds(answers=[here(running=1), here("node2 6")]) == ["idle"]
    assert kinds(answers=[here(trouble="no memory")]) == ["paused"]
    assert kinds(answers=[here(code="other")]) == ["code"]
    assert kinds(answers=[here(), here("node2 6")], refusals=[(b"node1 5", "node1 5", "no numpy")]) == [
        "refused",
        "idle",
    ]


def test_several_causes_are_all_said():
    answers = [here(code="other"), here("node2 6", trouble="no memory"), here("node3 7", running=2)]
    assert kinds(answers=answers, blocked="disk") == ["blocked", "code", "paused", "busy"]


def test_every_cause_says_who_and_what_to_do():
    (none,) = causes(FACTS)
    assert str(none).endswith("To start one: pymar worker -f /here/job.py -q amqp://broker:5672")
    (none,) = causes(FACTS._replace(pool="lab", path=""))
    assert "pymar worker --pool lab" in none.remedy
    (none,) = causes(FACTS._replace(pool=POOL))
    assert f"-f /here/job.py -p {POOL}" in none.remedy
    (busy,) = causes(FACTS._replace(answers=[here(running=1)]))
    assert "job aaaaaaaa of Other (alice at node7, pid 4711), on the workers node1 5" in busy.text
    (refused,) = causes(FACTS._replace(refusals=[(b"a", "node1 5", "no numpy")]))
    assert str(refused) == "no worker of the pool Name can compute it. 1 refused: node1 5: no numpy"


def test_other_files_in_the_pool_of_calls_are_not_meant():
    facts = FACTS._replace(pool=POOL, answers=[here(code="other", path="/there/another.py")])
    assert [cause.kind for cause in causes(facts)] == ["none"]


@pytest.mark.parametrize(
    ("code", "python", "kind", "says"),
    [
        (f"py3.99-{__version__}-aaa", "3.99", "python", "Python 3.99, and this process 3.11: it is left out"),
        ("py3.11-0.0.1-aaa", "3.11", "version", f"Pymar 0.0.1, and this process {__version__}: it is left out"),
        ("py3.11-1.0-rc-1-aaa", "3.11", "version", "Pymar 1.0-rc-1"),
        (f"py3.11-{__version__}-bbb", "3.11", "key", "first key is bbb"),
    ],
)
def test_how_a_worker_of_a_pool_differs_is_told_apart(code, python, kind, says):
    facts = FACTS._replace(path="", code=f"py3.11-{__version__}-aaa")
    (cause,) = causes(facts._replace(answers=[here(code=code, path="", python=python)]))
    assert cause.kind == kind
    assert says in cause.text
    assert cause.remedy


@pytest.mark.parametrize(
    ("mine", "theirs", "says"),
    [
        ("a\nb\nc\n", "a\nB\nC\n", "line 2 differs first"),
        ("a\n", "a\nb\n", "line 2 differs first"),
        ("a\nb\n", "a\n", "line 2 differs first"),
        ("", "a\n", "line 1 differs first"),
        ("a\n", "a", "job.py is"),  # they differ in what ends a line
    ],
)
@pytest.mark.parametrize("is_near", [True, False], ids=["this host", "another"])
def test_the_line_in_which_files_differ_first(tmp_path, mine, theirs, says, is_near):
    """Of a file on this host by the file; of one elsewhere by what its worker says of its lines, if there is a key."""
    (tmp_path / "job.py").write_text(mine)
    other = tmp_path / "other.py"
    other.write_text(theirs)
    code = code_of(other)
    lines = lines_of(str(other), code)
    facts = FACTS._replace(path=str(tmp_path / "job.py"))
    path = str(other) if is_near else "/elsewhere/job.py"
    (cause,) = causes(facts._replace(answers=[here(code=code, path=path, lines=b"" if is_near else lines)]))
    assert says in cause.text
    assert cause.remedy == "Give it the same file"


def test_a_worker_of_another_python_is_left_out_and_named():
    assert left_out(here(), "3.11") is None
    assert "node1 5 has Python 3.11, and this process 3.99: it is left out" in str(left_out(here(), "3.99"))


def test_without_a_key_and_on_another_host_no_line_is_named():
    (cause,) = causes(FACTS._replace(answers=[here(code="other")]))
    assert "differs first" not in cause.text
    assert "/there/job.py is other there, /here/job.py is c0de here" in cause.text


def test_lines_are_described_of_the_version_that_is_served_only(tmp_path):
    (tmp_path / "job.py").write_text("a\n")
    assert lines_of(str(tmp_path / "job.py"), "another") == b""
    assert lines_of(str(tmp_path / "absent.py"), "another") == b""
