"""Datasets over AMQP without a key: the functions of a script go by name, beside its producers with `-p calls`."""

SCRIPT = """
import pymar
from pymar.exceptions import UsageError
from pymar.keyed import Count, Mean


class Mine(pymar.Producer):
    map_fn = staticmethod(lambda numbers: numbers)
    reduce_fn = staticmethod(sum)


def squared(number):
    return number * number


if __name__ == "__main__":
    options = {{"timeout": 60, "on_timeout": "fail"}}
    engine = "amqp://127.0.0.1:{port}"
    numbers = pymar.dataset(range(50), engine=engine, parts=4)
    words = pymar.dataset(["a b"] * 5, engine=engine).flat_map(str.split)
    rows = pymar.dataset([{{"k": 1, "x": 2.0}}], engine=engine)
    print(pymar.map(squared, [3], engine=engine, **options))
    print(numbers.map(squared).sum(**options))
    print(sorted(words.group_by().count().collect(**options)))
    print(numbers.map(squared).sort(reverse=True).take(2, **options))
    print(numbers.distinct().count(**options))
    print(rows.group_by("k").aggregate(n=Count(), mean=Mean("x")).collect(**options))
    print(rows.join(rows, "k").collect(**options))
    try:
        numbers.map(lambda number: number).sum(**options)
    except UsageError as error:
        print("keygen" in str(error), "top level" in str(error))
"""

PRINTED = """\
[9]
40425
[('a', 5), ('b', 5)]
[2401, 2304]
50
[{'k': 1, 'n': 1, 'mean': 2.0}]
[{'k': 1, 'x': 2.0, 'x_right': 2.0}]
True True
"""


def test_the_functions_of_a_script_are_served_by_name(broker, agents, script, tmp_path):
    code = SCRIPT.format(port=broker.port)
    path = tmp_path / "job.py"
    path.write_text(code)
    agents.start(str(path), "-p", "calls", "-w", "2")
    assert script(code).stdout == PRINTED
