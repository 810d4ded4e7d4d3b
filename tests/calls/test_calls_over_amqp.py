"""Calls over AMQP: by name without a key, for a file that has no producer; by value with one."""

import call_jobs
import pytest

import pymar
from pymar.amqp.keys import new_key
from pymar.exceptions import PartFailed, UsageError

NUMBERS = range(50)


def test_functions_of_a_file_go_by_name_without_a_key(broker, agents):
    agents.start(call_jobs.__file__, "-w", "2")
    engine = broker.engine()
    assert pymar.map(call_jobs.squared, NUMBERS, engine=engine) == [number**2 for number in NUMBERS]
    assert pymar.map(call_jobs.added, NUMBERS, NUMBERS, engine=engine) == [2 * number for number in NUMBERS]
    assert list(pymar.imap(call_jobs.squared, iter([-1, 2]), engine=engine)) == [1, 4]
    drawn = pymar.map(call_jobs.drawn, NUMBERS, engine=engine, seed=7)
    assert drawn == pymar.map(call_jobs.drawn, NUMBERS, engine="serial", seed=7)
    with pytest.raises(PartFailed, match="item 2: 0") as raised:
        pymar.map(call_jobs.inverse, [2, 1, 0], engine=engine)
    assert "ZeroDivisionError" in str(raised.value)


def test_a_script_is_served_with_what_it_uses_of_python(broker, agents, script, tmp_path):
    path = tmp_path / "job.py"
    code = f"""
import math
import pymar

def main(number):
    return math.sqrt(number)

if __name__ == "__main__":
    engine = "amqp://127.0.0.1:{broker.port}"
    print(pymar.map(main, [4, 9], engine=engine), pymar.map(abs, [-1], engine=engine),
          pymar.map(math.exp, [0], engine=engine), pymar.map(str.upper, ["a"], engine=engine))
"""
    path.write_text(code)
    agents.start(str(path), "-w", "2")
    assert script(code).stdout == "[2.0, 3.0] [1] [1.0] ['A']\n"


def test_a_lambda_is_refused_without_a_key_with_the_remedy(broker, agents):
    with pytest.raises(UsageError, match=r"lambda.*top level.*pymar keygen.*--pool"):
        pymar.map(lambda number: number, NUMBERS, engine=broker.engine())


def test_a_lambda_goes_by_value_with_a_key(broker, agents, monkeypatch, script):
    monkeypatch.setenv("PYMAR_KEY", new_key())
    agents.start("--pool", "calls-by-value", "-w", "2")
    code = f"""
import pymar
shift = 7
engine = "amqp://127.0.0.1:{broker.port}?pool=calls-by-value"
print(pymar.map(lambda number: number + shift, range(3), engine=engine))
"""
    assert script(code).stdout == "[7, 8, 9]\n"
