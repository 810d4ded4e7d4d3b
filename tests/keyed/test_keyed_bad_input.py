"""Bad input of keyed jobs, and odd input that is good: a clear error that names what is wrong, or the exact answer."""

import random
import threading

import pytest
from exchanges import left_empty

from pymar import DataSourceFactory
from pymar.exceptions import ExchangeError, PartFailed, UsageError
from pymar.keyed import Collect, Count, KeyedProducer, Mean, Sum
from pymar.keyed.result import Result
from pymar.sinks import JSONLinesSink
from pymar.sources import JSONLines


@pytest.fixture(autouse=True)
def exchange(tmp_path, monkeypatch):
    """A folder for the exchange, which is empty after each test."""
    yield from left_empty(tmp_path, monkeypatch)


def mapped(map_fn, reduce_fn=None, data=range(30), **settings):
    """What a job makes of the data, as a dict."""
    if reduce_fn is not None and not isinstance(reduce_fn, Sum | Count | Mean | Collect | dict | type):
        reduce_fn = staticmethod(reduce_fn)
    settings = {"WORKERS_NUMBER": 3, "map_fn": staticmethod(map_fn), "reduce_fn": reduce_fn or Sum(), **settings}
    producer = type("Job", (KeyedProducer,), settings)
    with producer(engine="serial").map(DataSourceFactory(data)) as result:
        return result.to_dict()


def told(map_fn, **settings):
    """The text of the error that a job ends with; nothing holds the error, and what it needs, any more."""
    try:
        mapped(map_fn, **settings)
    except (PartFailed, UsageError) as error:
        return str(error)
    pytest.fail("there was no error")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [((1, 2, 3), "make a pair"), ("ab", "yield text, 1"), (None, "yielded None"), (5, "yielded 5")],
)
def test_what_is_no_pair_is_shown_with_a_remedy_wherever_it_comes(wrong, says):
    assert says in told(lambda records: (wrong for _ in records))
    assert says in told(lambda records: ((n, 1) if n != 7 else wrong for n in records))


@pytest.mark.parametrize("key", [[1, 2], {}, (1, [2]), object()])
@pytest.mark.parametrize("combine", [True, False])
def test_a_key_that_cannot_be_one_is_shown_with_a_remedy(key, combine):
    def summed(key, values):
        return sum(values)

    text = told(lambda records: ((key, 1) for _ in records), COMBINE=combine, reduce_fn=summed)
    assert "key_bytes_fn" in text
    assert "the key" in text


@pytest.mark.parametrize("value", [(n for n in "ab"), threading.Lock()])
def test_a_value_that_cannot_be_copied_is_shown(value):
    assert "yielded <" in told(lambda records: ((n, value) for n in records), reduce_fn=Collect())


def test_empty_arrays_and_tables_are_no_pairs():
    numpy = pytest.importorskip("numpy")
    arrow = pytest.importorskip("pyarrow")
    for dtype in ("int64", "float64"):
        arrays = numpy.array([], "int64"), numpy.array([], dtype)
        for reduce_fn in (Sum(), Mean(), Count(), Collect()):
            assert mapped(lambda records, arrays=arrays: (list(records), arrays)[1], reduce_fn) == {}
            table = arrow.table({"key": arrays[0], "value": arrays[1]})
            assert mapped(lambda records, table=table: (list(records), table)[1], reduce_fn, KEY="key") == {}


def test_a_key_column_that_a_table_lacks_is_named():
    arrow = pytest.importorskip("pyarrow")
    text = told(lambda records: (lambda ns: arrow.table({"kex": ns, "value": ns}))(list(records)), KEY="key")
    assert "KEY reads the column 'key'" in text
    assert "'kex'" in text


def test_sums_are_written_as_ints(tmp_path):
    class Total(KeyedProducer):
        reduce_fn = Sum()

    Total(engine="serial").write(DataSourceFactory([(n % 5, n) for n in range(100)]), JSONLinesSink(tmp_path / "out"))
    rows = DataSourceFactory(JSONLines, path=str(tmp_path / "out")).build_data_source()
    assert {row["key"]: row["value"] for row in rows} == {k: sum(range(k, 100, 5)) for k in range(5)}


@pytest.mark.parametrize(
    ("name", "reduce_fn", "values", "right"),
    [
        ("of two values", lambda key, values: len(list(values)), (5, 6), "gives 2 "),
        ("of three values", lambda key, values: len(list(values)), (5, 6, 7), "gives 3 "),
        ("of its own result alone", lambda key, values: sum(n * n for n in values), (5, 6), "gives 61 "),
    ],
)
def test_a_reduce_fn_that_does_not_take_its_own_results_is_refused_with_both_values(name, reduce_fn, values, right):
    text = told(lambda records: ((n, value) for n in records for value in values), reduce_fn=reduce_fn)
    assert right in text
    assert "COMBINE = False" in text


def test_a_reduce_fn_is_checked_when_values_first_meet():
    def pairs(records):
        for n in records:
            yield n, 1  # new keys in the whole first window
        for _ in range(10_000):
            yield "hot", 5  # of which one bucket has more than its share: it is combined

    text = told(pairs, data=range(1 << 16), WORKERS_NUMBER=1, reduce_fn=lambda key, values: len(list(values)))
    assert "'hot'" in text


@pytest.mark.parametrize("stage", ["reduce_fn", "finish_fn"])
def test_the_error_of_a_function_of_the_user_names_the_key(stage):
    def fails(key, values):
        return 1 / 0 if key == 7 else 0

    settings = {"reduce_fn": fails, "COMBINE": False} if stage == "reduce_fn" else {"finish_fn": staticmethod(fails)}
    assert f"{stage} was called with the key 7" in told(lambda records: ((n, 1) for n in records), **settings)


def test_values_that_wait_uncombined_are_bounded_by_their_bytes(monkeypatch):
    from pymar.keyed import mapping

    monkeypatch.setattr(mapping, "_TOGETHER", 1 << 20)
    sizes, divide = [], mapping.Mapper._divide

    def noted(self, is_raw, keys, columns):
        sizes.append(sum(map(len, columns[0])))
        divide(self, is_raw, keys, columns)

    monkeypatch.setattr(mapping.Mapper, "_divide", noted)
    found = mapped(lambda records: ((n % 3, "x" * (1 << 20)) for n in records), Collect(), WORKERS_NUMBER=1)
    assert {key: len(values) for key, values in found.items()} == {0: 10, 1: 10, 2: 10}
    assert max(sizes) <= 10 << 20


def test_odd_pairs_are_exact():
    rng = random.Random(1)
    shared = [0]

    def pairs(records):
        for n in records:
            shared[0] = n
            yield "list", shared
            yield "x" * 1_000_000, n
            yield float("nan"), n if n % 7 else 2**70
            yield (None, "1", 1, b"1")[rng.randrange(4)], {"n": n}

    found = mapped(pairs, Collect())
    assert found["list"] == [[n] for n in range(30)]
    assert found["x" * 1_000_000] == list(range(30))
    (nan,) = (key for key in found if key != key)
    assert found[nan] == [n if n % 7 else 2**70 for n in range(30)]
    assert mapped(lambda records: iter(())) == {}
    assert mapped(lambda records: ((n, 1) for n in records), data=[]) == {}
    assert mapped(lambda records: ((n, 1) for n in records), data=[8]) == {8: 1}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"PARTITIONS": 0}, "PARTITIONS is 0"),
        ({"KEY": 5}, "KEY is 5"),
        ({"reduce_fn": Sum}, r"write Sum\(\)"),
        ({"reduce_fn": 5}, "reduce_fn is 5"),
        ({"reduce_fn": lambda key, values: 0}, "@staticmethod"),
        ({"finish_fn": lambda key, value: 0}, "@staticmethod"),
        ({"reduce_fn": None}, "no reduce_fn"),
        ({"reduce_fn": {"n": 5}}, "'n' is 5"),
    ],
)
def test_wrong_settings_are_refused_before_the_job(settings, says):
    with pytest.raises(UsageError, match=says):
        type("Job", (KeyedProducer,), {"reduce_fn": Sum(), **settings})(engine="serial").map(DataSourceFactory([]))


def test_a_kept_result_that_is_damaged_says_so(tmp_path):
    class Total(KeyedProducer):
        reduce_fn = Sum()

    pairs = [(f"{n}", n) for n in range(1_000)]
    kept = Total(engine="serial").map(DataSourceFactory(pairs), keep=tmp_path / "kept")
    kept.close()
    again = Result.open(tmp_path / "kept")
    assert again.to_dict() == dict(pairs)
    one = tmp_path / "kept" / "0"
    one.write_bytes(one.read_bytes()[:-1] + b"?")
    with pytest.raises(ExchangeError, match="damaged"):
        again.to_dict()
    (tmp_path / "kept" / "result").write_bytes(b"nonsense")
    with pytest.raises(ExchangeError, match="damaged"):
        Result.open(tmp_path / "kept")
