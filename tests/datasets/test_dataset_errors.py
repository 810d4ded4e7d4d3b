"""What goes wrong in a dataset names the step, the line where it was written, and the record."""

import inspect
import itertools
import re

import pytest

import pymar
from pymar.exceptions import JobTimeout, PartFailed, UsageError
from pymar.keyed import Count, Mean

ROWS = [{"k": 1, "delay": 2.0}, {"k": 2, "delay": 3.0}, {"k": 3, "dely": 4.0}]


def of(data, **options):
    return pymar.dataset(data, engine="serial", **options)


def failure(result):
    with pytest.raises(PartFailed) as raised:
        result()
    return str(raised.value)


def here(back=0):
    """Return the line of the caller, as errors show it; `back` lines above."""
    frame = inspect.currentframe().f_back
    return rf"test_dataset_errors\.py, line {frame.f_lineno - back}\b"


def inverse(number):
    return 1 / number


@pytest.mark.parametrize("engine", ["serial", "processes://2"])
def test_the_step_the_line_and_the_record_are_named(engine):
    dataset = pymar.dataset([3, 2, 1, 0], engine=engine, parts=2).map(abs).map(inverse)
    where = here(1)
    for result in (
        dataset.sum,
        dataset.collect,
        dataset.count,
        dataset.sort().collect,
        dataset.group_by().count().collect,
    ):
        text = failure(result)
        assert "ZeroDivisionError" in text
        assert re.search(rf"in \.map\(inverse\), .*{where}, with 0, of record 3", text), text


def test_a_builtin_that_raises_is_named_too():
    text = failure(of(["1", "x"], parts=1).map(str.strip).map(int).sum)
    assert "in .map(int)" in text
    assert "with 'x', of record 1" in text


def test_each_side_of_a_join_names_its_own_steps():
    left, right = of([1, 2]).map(abs), of([1, 0]).map(inverse)
    where = here(1)
    text = failure(lambda: left.join(right, lambda one: one).collect())
    assert re.search(rf"in \.map\(inverse\), .*{where}, with 0", text), text


@pytest.mark.parametrize(
    ("step", "match"),
    [
        (lambda d: d.flat_map(lambda one: None), r"in \.flat_map\(lambda\).*returned None.*return \[\]"),
        (
            lambda d: d.flat_map(str),
            r"in \.flat_map\(str\).*the str '1', and its letters would be the records.*\[value\]",
        ),
        (lambda d: d.map_parts(lambda some: None), r"in \.map_parts\(lambda\).*returned None"),
        (lambda d: d.map_parts(lambda some: "ab"), r"in \.map_parts\(lambda\).*the str 'ab'"),
    ],
)
def test_a_step_that_returns_no_iterable(step, match):
    assert re.search(match, failure(step(of([1, 2])).collect))


def test_a_record_that_lacks_the_key_is_shown():
    text = failure(of([{"k": 1}, {"q": 2}], parts=1).group_by("k").count().collect)
    assert re.search(r"in \.group_by\('k'\)\.count\(\).*\{'q': 2\}, of record 1.*'k'.*it has 'q'", text), text
    text = failure(of([{"k": 1}, {"q": 2}], parts=1).group_by(("k", len)).count().collect)
    assert "the key reads the column 'k'" in text
    text = failure(of([{"k": 1}, {"q": 2}], parts=1).sort("k").collect)
    assert re.search(r"in \.sort\('k'\).*of record 1", text), text


def test_a_column_that_is_not_there_is_named_with_the_nearest():
    text = failure(of(ROWS[:2], parts=1).group_by("k").aggregate(mean=Mean("dealy")).collect)
    assert re.search(r"'dealy'.*did you mean 'delay'", text), text
    text = failure(of(ROWS, parts=1).group_by("k").aggregate(mean=Mean("delay")).collect)
    assert re.search(r"of record 2.*'delay'.*did you mean 'dely'", text), text


def test_a_column_that_a_parquet_file_does_not_have(tmp_path):
    pytest.importorskip("pyarrow")
    of(ROWS[:2]).write_parquet(tmp_path / "rows")
    dataset = pymar.read_parquet(tmp_path / "rows", engine="serial")
    with pytest.raises(UsageError, match="dealy"):
        dataset.group_by("k").aggregate(mean=Mean("dealy")).collect()


def test_a_function_that_raises_stopiteration_loses_no_records():
    def stops(number):
        if number == 3:
            raise StopIteration
        return [number]

    for dataset in (of(range(6), parts=1).map(stops), of(range(6), parts=1).flat_map(stops)):
        for result in (
            dataset.count,
            dataset.collect,
            dataset.map(str).sort().collect,
            dataset.group_by(str).count().collect,
            dataset.map(str).join(of(["1"]), str).collect,
        ):
            assert "StopIteration" in failure(result)


def test_nor_does_one_around_a_function_of_parts():
    def stops(number):
        if number == 3:
            raise StopIteration
        return number

    numbers = of(range(6), parts=1)
    assert "StopIteration" in failure(numbers.map(stops).map_parts(list).collect)
    assert "StopIteration" in failure(numbers.map_parts(list).map(stops).collect)
    assert "StopIteration" in failure(numbers.map_parts(list).map(stops).map_parts(list).sum)


def test_a_text_or_none_that_comes_late_is_found_too():
    late = of(range(5), parts=1).flat_map(lambda number: [number] if number < 3 else "ab")
    assert re.search(r"the str 'ab', and its letters", failure(late.collect))
    late = of(range(5), parts=1).flat_map(lambda number: [number] if number < 3 else None)
    assert "returned None" in failure(late.sum)


def test_a_time_out_over_stages_names_the_seconds_of_the_call():
    import time

    slow = pymar.dataset(range(4), engine="processes://2").map(lambda n: time.sleep(0.3) or n).group_by().count()
    with pytest.raises(JobTimeout, match=r"within 0\.2 s"):
        slow.map(str).collect(timeout=0.2, on_timeout="fail")


def test_a_function_of_parts_may_stop_early():
    assert of(range(10), parts=2).map_parts(lambda some: itertools.islice(some, 2)).collect() == [0, 1, 5, 6]


@pytest.mark.parametrize("given", ["abc.csv", b"abc", 7, None, of([1])])
def test_what_is_no_data_is_refused(given):
    with pytest.raises(UsageError):
        pymar.dataset(given)


def test_a_text_is_not_taken_for_its_letters():
    with pytest.raises(UsageError, match=r"letters.*pymar\.read_text"):
        pymar.dataset("abc.csv")


def test_a_dataframe_is_refused_with_the_remedy():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(UsageError, match="to_dict"):
        pymar.dataset(pandas.DataFrame({"a": [1]}))


def test_a_generator_is_read_by_one_result_only():
    dataset = of(number for number in range(3))
    assert dataset.sum() == 3
    with pytest.raises(UsageError, match="read only once"):
        dataset.count()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda d: d.map("abs"),
        lambda d: d.filter(None if False else 3),
        lambda d: d.sample(2),
        lambda d: d.group_by(7),
        lambda d: d.group_by("k").aggregate(),
        lambda d: d.group_by("k").aggregate(n=Count),
        lambda d: d.group_by("k").aggregate(k=Count()),
        lambda d: d.group_by("k").sum(),
        lambda d: d.group_by("k").map_groups(3),
        lambda d: d.group_by(abs).sum(abs),
        lambda d: d.group_by("k").aggregate(n=Mean(abs)),
        lambda d: d.join([1], "k"),
        lambda d: d.join(d, "k", "cross"),
        lambda d: d.top(0),
        lambda d: d.take(-1),
        lambda d: d.reduce(3),
        lambda d: d.collect(enigne="serial"),
        lambda d: d.sort(3),
        lambda d: pymar.dataset([1], parts=0),
        lambda d: pymar.read_text(7),
        lambda d: pymar.read_csv("x.csv", delimeter=";"),
    ],
)
def test_wrong_arguments_are_refused_at_once(wrong):
    with pytest.raises(UsageError):
        wrong(of(ROWS))


def test_rows_are_no_pairs_of_a_join():
    rows = of([{"a": "x", "b": 1}, {"a": "y", "b": 2}])
    assert re.search(r"in \.join\(.*without on= it takes pairs.*say on='name'", failure(rows.join(rows).collect))
    assert of([("a", 1)]).join(of([("a", 2)])).collect() == [("a", (1, 2))]


def test_names_of_other_libraries_are_explained():
    with pytest.raises(AttributeError, match=r"a dataset has no 'head': write take\(n\)"):
        of([1]).head  # noqa: B018
    with pytest.raises(AttributeError, match="say what becomes of each group"):
        of(ROWS).group_by("k").top  # noqa: B018
    with pytest.raises(TypeError, match="say what becomes of each group"):
        iter(of(ROWS).group_by("k"))


def test_an_option_that_is_misspelt_is_named():
    with pytest.raises(UsageError, match=r"collect\(\) has no option enigne=: did you mean engine="):
        of([1]).collect(enigne="serial")


def test_a_key_that_comes_twice_is_no_dict():
    with pytest.raises(UsageError, match=r"the key 1 comes twice.*group_by"):
        of([(1, 2), (1, 3)]).to_dict()
    with pytest.raises(UsageError, match="takes pairs"):
        of(["ab"]).to_dict()


def test_what_does_not_fit_into_memory_is_said_with_the_remedy(monkeypatch):
    monkeypatch.setattr("pymar.calls.memory.SHARE", -1.0)
    with pytest.raises(UsageError, match=r"do not fit into memory.*[Ii]terate.*write_parquet"):
        of(range(10), parts=10).collect()


def test_none_is_no_sum():
    with pytest.raises((PartFailed, TypeError), match="NoneType"):
        of([None], parts=1).sum()
