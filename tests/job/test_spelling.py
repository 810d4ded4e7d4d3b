"""A name that is nearly one of Pymar's, and that nothing uses, is refused with the right one; no correct job is."""

import asyncio
import functools
import operator
from pathlib import Path

import numpy
import pandas
import pytest
from test_bad_input import Unreachable, refused

from pymar import DataSource, DataSourceFactory, Producer
from pymar.engines.processes import ProcessesEngine
from pymar.exceptions import PartFailed, UsageError
from pymar.testing import Numbers, Total


def numbers(data_source):
    return data_source


def pairs(first, second):
    return first + second


def assert_in_order(message, *nouns):
    """Assert that a message has these nouns, in this order."""
    rest = message
    for noun in nouns:
        _, found, rest = rest.partition(noun)
        assert found, f"{noun!r} is not in its place in {message!r}"


class Sum(Producer):
    map_fn = staticmethod(numbers)
    reduce_fn = staticmethod(sum)


def made(root=Sum, **members):
    """A producer of members whose names stand in no class of this file."""
    return type("Mine", (root,), {"__module__": __name__, **members})


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        *((name, 3, "RETRIES") for name in ("RETRY", "retries", "RETRYS", "MAX_RETRIES", "num_retries", "retryCount")),
        *((name, 3, "WORKERS_NUMBER") for name in ("WORKER_NUMBER", "NUM_WORKERS", "n_workers", "WORKERS", "PARTS")),
        *((name, 3, "ATTEMPTS") for name in ("ATTEMPT", "attempts", "MAX_ATTEMPTS", "ATEMPTS")),
        *(
            (name, 3, "PART_TIMEOUT")
            for name in ("TIMEOUT", "part_timeout", "PARTTIMEOUT", "TIME_OUT", "PART_TIME_OUT")
        ),
        *((name, 3, "MEMORY_LIMIT") for name in ("MAX_MEMORY", "memory_limit", "MEM_LIMIT", "MEMORY_LIMITS")),
        *((name, 0, "BACKUPS") for name in ("BACKUP", "backups", "NUM_BACKUPS")),
        *((name, 3, "SEED") for name in ("seed", "RANDOM_SEED", "SEEDS")),
        *(
            (name, print, "setup_fn")
            for name in ("setup", "set_up", "setup_func", "setupFn", "initializer", "setup_fun")
        ),
        *((name, print, "routing_key") for name in ("routing_keys", "routingkey", "routing_kye")),
    ],
)
def test_a_name_that_is_nearly_a_setting_or_a_function_of_ours_is_refused(name, value, meant):
    value = staticmethod(lambda: None) if value is print else value
    message = refused(made(**{name: value}))
    assert_in_order(message, f"Mine.{name}", meant)


@pytest.mark.parametrize("name", ["map_func", "mapfn", "mapper", "mapFunction", "map_fun"])
def test_a_map_fn_by_another_name_is_named(name):
    message = refused(made(Producer, **{name: staticmethod(numbers)}))
    assert_in_order(message, "Mine", "map_fn", name, "rename")


@pytest.mark.parametrize("name", ["reduce", "reduce_func", "reducer", "reduceFn", "reduce_fun"])
def test_a_reduce_fn_by_another_name_is_named(name):
    message = refused(made(Producer, map_fn=staticmethod(numbers), **{name: staticmethod(numbers)}))
    assert_in_order(message, "Mine", "reduce_fn", name, "rename")


def test_a_map_that_hides_ours_is_refused():
    with pytest.raises(UsageError, match=r"Mine\.map .*map_fn"):
        made(Producer, map=staticmethod(numbers), reduce=staticmethod(sum))
    with pytest.raises(UsageError, match=r"Mine\.map "):
        made(Producer, map=lambda data_source: data_source)

    class Wrapped(Sum):
        def map(self, factory, **options):
            return super().map(factory, **options) + 1

    assert Wrapped(engine="serial").map(DataSourceFactory([1, 2])) == 4


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("workers_number", 3, "WORKERS_NUMBER = 3"),
        ("routing_key", "pool", "define a function routing_key"),
        ("setup_fn", None, "function"),
        ("map_fn", "numbers", "function"),
    ],
)
def test_a_value_in_the_place_of_a_function_is_refused(name, value, says):
    assert_in_order(refused(made(**{name: value})), f"Mine.{name}", repr(value), says)


async def coroutine(data_source):
    await asyncio.sleep(0)


async def asynchronous(data_source):
    yield 1


def yielding():
    yield 1


@pytest.mark.parametrize(
    ("name", "function", "says"),
    [
        ("map_fn", lambda: [1], ["no arguments", "called with one", "the records of a part"]),
        ("map_fn", lambda key, value: [], ["key, value", "called with one"]),
        ("map_fn", lambda records, *, scale: [], ["records, scale", "called with one"]),
        ("map_fn", coroutine, ["asynchronous"]),
        ("map_fn", asynchronous, ["asynchronous"]),
        ("reduce_fn", pairs, ["first, second", "called with one", "an iterable of values", "functools.reduce"]),
        ("reduce_fn", coroutine, ["asynchronous"]),
        ("setup_fn", numbers, ["data_source", "called without any"]),
        ("setup_fn", yielding, ["generator", "yield"]),
    ],
)
def test_a_function_that_is_called_otherwise_is_refused(name, function, says):
    assert_in_order(refused(made(**{name: staticmethod(function)})), f"Mine.{name}", *says)


class Whole:
    def method(self, records):
        return records


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("map_fn", lambda records, scale=2: records),
        ("map_fn", lambda *records: records[0]),
        ("map_fn", functools.partial(pairs, second=1)),
        ("map_fn", Whole().method),
        ("reduce_fn", max),
        ("reduce_fn", functools.partial(functools.reduce, operator.add)),
    ],
)
def test_a_function_that_can_be_called_so_is_not(name, function):
    with pytest.raises(AssertionError, match="the job was started"):
        made(**{name: staticmethod(function)})(engine=Unreachable()).map(DataSourceFactory([1]))


class Explained(Sum):
    """Each name is read somewhere, or stands next to the right one."""

    retry = 3
    timeout = 30
    workers = 4
    seed = SEED = 7
    memory = 1 << 20
    limit = 2 * memory

    @staticmethod
    def map_fn(data_source):
        return [Explained.retry * number for number in data_source]

    @classmethod
    def other(cls):
        return cls().timeout

    @staticmethod
    def initialize():
        return getattr(Explained, "workers")  # noqa: B009 - as frameworks do

    @classmethod
    def setup_fn(cls):
        cls.initialize()


def test_a_name_that_something_explains_is_the_users_own():
    assert Explained(engine="serial").map(DataSourceFactory([1, 2])) == 9


def test_a_setting_of_an_instance_is_refused_since_it_does_not_travel():
    for name, value in (("RETRIES", 3), ("PART_TIMEOUT", 1.0), ("map_fn", pairs)):
        producer = Sum(engine=Unreachable())
        setattr(producer, name, value)
        with pytest.raises(UsageError, match=rf"set it on the class, Sum\.{name} = "):
            producer.map(DataSourceFactory([1]))
    for name, says in (("workers_number", "set WORKERS_NUMBER"), ("RETRY" + "S", "RETRIES")):
        producer = Sum(engine=Unreachable())
        setattr(producer, name, 3)
        with pytest.raises(UsageError, match=says):
            producer.map(DataSourceFactory([1]))
    producer = Sum(engine="serial")
    producer.WORKERS_NUMBER, producer.mine = 2, 7
    assert producer.map(DataSourceFactory([1, 2, 3])) == 6


@pytest.mark.parametrize("call", ["map", "submit", "partials", "replay"])
def test_a_call_on_the_class_is_refused_with_the_right_call(call):
    with pytest.raises(UsageError, match=rf"{call}\(\) .* class.*MyProducer\(\)\.{call}\(\.\.\.\)"):
        getattr(Total, call)(DataSourceFactory([1]))
    with pytest.raises(UsageError, match="MyProducer"):
        getattr(Total, call)(factory=DataSourceFactory([1]))


@pytest.mark.parametrize(
    ("call", "named", "says"),
    [
        ("map", {"time_out": 3}, r"Sum\.map\(\) .*'time_out'.* timeout="),
        ("map", {"checkpoints": "x"}, " checkpoint="),
        ("submit", {"onTimeout": "fail"}, " on_timeout="),
        ("partials", {"progres": True}, " progress="),
        ("map", {"retries": 3}, r"class.* Sum\.RETRIES = "),
        ("map", {"sparkles": 3}, "checkpoint, factory, on_mismatch, on_timeout, progress, timeout"),
    ],
)
def test_an_argument_by_another_name_is_refused(call, named, says):
    with pytest.raises(UsageError, match=says):
        getattr(Sum(engine=Unreachable()), call)(DataSourceFactory([1]), **named)


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"engin": "serial"}, r"Sum\(\) .*'engin'.* engine="),
        ({"server": "host"}, " mq_server="),
        ({"WORKERS_NUMBER": 3}, r"class.* Sum\.WORKERS_NUMBER"),
        ({"workers": 3}, r"class.* Sum\.WORKERS_NUMBER"),
    ],
)
def test_an_argument_of_a_producer_by_another_name_is_refused(named, says):
    with pytest.raises(UsageError, match=says):
        Sum(**named)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("data.csv", r"str 'data.csv'.*letters.*TextLines, path="),
        (b"data.csv", "numbers.*TextLines"),
        (Path("data.csv"), "TextLines, path="),
        (numbers, r"call it, .* DataSourceFactory\(numbers\(\)\)"),
        (yielding, r"DataSourceFactory\(yielding\(\)\)"),
        (asynchronous(None), "asynchronous"),
        (pandas.DataFrame({"a": [1]}), "columns.*a list of its rows"),
        (numpy.array(3), "a single number"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_data_that_are_no_records_are_refused(data, says):
    with pytest.raises(UsageError, match=says):
        DataSourceFactory(data)


def test_settings_of_a_factory_by_another_name_are_refused():
    with pytest.raises(UsageError, match=r"'Limit'.*limit"):
        DataSourceFactory(Numbers, Limit=3)
    with pytest.raises(UsageError, match=r"full_length=3.*Numbers\.full_length.*function"):
        DataSourceFactory(Numbers, full_length=3)
    with pytest.raises(UsageError, match="limit= and offset="):
        DataSourceFactory([1, 2], limits=1)


def source(**members):
    return type("Mine", (DataSource,), {"__module__": __name__, **members})


LENGTH = classmethod(lambda cls: 1)
ITER = lambda self: iter([1])  # noqa: E731 - it becomes a method


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"fulllength": LENGTH, "__iter__": ITER}, "full_length: .*; fulllength"),
        ({"length": LENGTH, "__iter__": ITER}, "full_length: .*; length"),
        ({"__len__": lambda self: 1, "__iter__": ITER}, "full_length: .*; __len__"),
        ({"full_length": 100, "__iter__": ITER}, "Mine.full_length .*100.*@classmethod"),
        ({"full_length": LENGTH, "iter": ITER}, "__iter__: .* iter: rename"),
        ({"full_length": LENGTH, "__iter__": ITER, "UNIT": "bytes"}, "Mine.UNIT .* unit"),
        ({"full_length": LENGTH, "__iter__": ITER, "prepares": LENGTH}, "Mine.prepares .* prepare "),
        ({"full_length": LENGTH, "__iter__": asynchronous}, "Mine.__iter__ .*asynchronous"),
        ({"full_length": LENGTH, "__iter__": ITER, "prepare": lambda self: {}}, "Mine.prepare .*self"),
    ],
)
def test_a_source_with_nearly_the_right_names_is_refused(members, says):
    with pytest.raises(UsageError, match=says):
        Sum(engine=Unreachable()).map(DataSourceFactory(source(**members)))


def test_an_error_of_the_users_records_is_not_blamed_on_reduce_fn():
    def records():
        yield 1
        raise ValueError("no number")

    with pytest.raises(ValueError, match="no number") as error:
        Sum(engine=ProcessesEngine("1")).map(DataSourceFactory(records()))
    assert not getattr(error.value, "__notes__", None)


def test_a_reduce_fn_that_stops_early_has_every_part_computed(tmp_path):
    class Early(Sum):
        WORKERS_NUMBER = 3
        folder = str(tmp_path)

        @staticmethod
        def map_fn(records):
            (Path(Early.folder) / str(records.offset)).touch()
            return records

        @staticmethod
        def reduce_fn(values):
            return next(iter(values))

    assert Early(engine="serial").map(DataSourceFactory([1, 2, 3])) == 1
    assert len(list(tmp_path.iterdir())) == 3


def test_a_prompt_completes_what_can_be_imported():
    import pymar

    assert {"Producer", "DataSource", "DataSourceFactory", "PartFailed"} <= set(dir(pymar))


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"checkpoint": True}, "checkpoint=True: .*path of a file"),
        ({"checkpoint": ""}, "checkpoint='': .*path"),
        ({"progress": "no"}, "progress='no': .*True, False, or None"),
    ],
)
def test_an_argument_of_another_kind_is_refused(named, says):
    with pytest.raises(UsageError, match=says):
        Sum(engine=Unreachable()).map(DataSourceFactory([1]), **named)


def test_listeners_that_are_none_are_refused():
    for listeners in (print, [print, 3]):
        with pytest.raises(UsageError, match=r"a list of functions.* \[print\]"):
            Sum(listeners=listeners)


def test_replay_takes_the_errors_of_parts():
    with pytest.raises(UsageError, match="PartFailed or PartLost"):
        Sum().replay(ValueError("no"))


@pytest.mark.parametrize(("engine", "meant"), [("process", "processes"), ("Serial", "serial"), ("rays://x", "ray")])
def test_an_engine_that_is_nearly_one_is_named(engine, meant):
    with pytest.raises(UsageError, match=f"'{meant}'\\?"):
        Sum(engine=engine).map(DataSourceFactory([1]))


@pytest.mark.parametrize("map_fn", [lambda record: record * 2, lambda record: (one for one in [record + 1])])
def test_the_error_of_a_map_fn_that_was_written_for_one_record_has_the_remedy(map_fn):
    with pytest.raises(PartFailed, match=r"map_fn .* once a part, .*: iterate"):
        made(map_fn=staticmethod(map_fn))(engine="serial").map(DataSourceFactory([1]))


def test_what_another_class_of_the_file_reads_explains_nothing():
    """Each class is judged for itself, though all of them have one name and stand in one file."""

    def refused_one():
        class Mine(Sum):
            TIMEOUT = 3

        return Mine

    def explained_by_its_name():
        class Mine(Sum):
            TIMEOUT = 3

            @staticmethod
            def map_fn(records):
                return [Mine.TIMEOUT]

        return Mine

    def explained_by_a_subclass():
        class Mine(Sum):
            TIMEOUT = 3

        class Other(Mine):
            def timeout(self):
                return self.TIMEOUT

        return Mine

    class Holder:
        TIMEOUT = 4

        def timeout(self):
            return self.TIMEOUT

    assert Holder.TIMEOUT == 4
    assert "PART_TIMEOUT" in refused(refused_one())
    assert explained_by_its_name()(engine="serial").map(DataSourceFactory([1])) == 3
    assert explained_by_a_subclass()(engine="serial").map(DataSourceFactory([1])) == 1
