"""A name that is nearly one of ours, and that nothing uses, is refused with the right one; no correct job is."""

import asyncio
import functools
import operator
from pathlib import Path

import numpy
import pandas
import pytest
from test_bad_input import NoChildren, refused

from pymar import DataSource, DataSourceFactory, Producer
from pymar.engines.processes import ProcessesEngine
from pymar.exceptions import PartFailed, UsageError
from pymar.testing import Numbers, Total


def numbers(data_source):
    return data_source


def pairs(first, second):
    return first + second


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
    assert f"Mine.{name} is not " in message
    assert f"{meant} is" in message


@pytest.mark.parametrize("name", ["map_func", "mapfn", "mapper", "mapFunction", "map_fun"])
def test_a_map_fn_by_another_name_is_named(name):
    message = refused(made(Producer, **{name: staticmethod(numbers)}))
    assert "Mine has no map_fn" in message
    assert f"nothing calls {name}: rename it" in message


@pytest.mark.parametrize("name", ["reduce", "reduce_func", "reducer", "reduceFn", "reduce_fun"])
def test_a_reduce_fn_by_another_name_is_named(name):
    message = refused(
        made(Producer, map_fn=staticmethod(numbers), **{name: staticmethod(sum if name == "" else numbers)})
    )
    assert "Mine has no reduce_fn" in message
    assert f"nothing calls {name}: rename it" in message


def test_a_map_that_hides_ours_is_refused():
    with pytest.raises(UsageError, match=r"Mine\.map hides the call .* name it map_fn"):
        made(Producer, map=staticmethod(numbers), reduce=staticmethod(sum))
    with pytest.raises(UsageError, match=r"Mine\.map hides"):
        made(Producer, map=lambda data_source: data_source)

    class Wrapped(Sum):
        def map(self, factory, **options):
            return super().map(factory, **options) + 1

    assert Wrapped(engine="serial").map(DataSourceFactory([1, 2])) == 4


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("workers_number", 3, "function.*WORKERS_NUMBER = 3"),
        ("routing_key", "pool", "has to be a function: define a function routing_key"),
        ("setup_fn", None, "has to be a function"),
        ("map_fn", "numbers", "has to be a function"),
    ],
)
def test_a_value_in_the_place_of_a_function_is_refused(name, value, says):
    assert f"Mine.{name} is {value!r}, and {says}" in refused(made(**{name: value}))


async def coroutine(data_source):
    await asyncio.sleep(0)


async def asynchronous(data_source):
    yield 1


def yielding():
    yield 1


@pytest.mark.parametrize(
    ("name", "function", "says"),
    [
        ("map_fn", lambda: [1], "takes no arguments, and it is called with one, the records of a part"),
        ("map_fn", lambda key, value: [], "takes key, value, and it is called with one"),
        ("map_fn", lambda records, *, scale: [], "takes records, scale, and it is called with one"),
        ("map_fn", coroutine, "is asynchronous"),
        ("map_fn", asynchronous, "is asynchronous"),
        ("reduce_fn", pairs, "takes first, second, and it is called with one, an iterable of values; to fold pairs"),
        ("reduce_fn", coroutine, "is asynchronous"),
        ("setup_fn", numbers, "takes data_source, and it is called without any"),
        ("setup_fn", yielding, "is a generator, of which nothing would run"),
    ],
)
def test_a_function_that_is_called_otherwise_is_refused(name, function, says):
    assert f"Mine.{name} {says}" in refused(made(**{name: staticmethod(function)}))


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
        made(**{name: staticmethod(function)})(engine=NoChildren()).map(DataSourceFactory([1]))


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
        producer = Sum(engine=NoChildren())
        setattr(producer, name, value)
        with pytest.raises(UsageError, match=rf"set it on the class, Sum\.{name} = "):
            producer.map(DataSourceFactory([1]))
    for name, says in (("workers_number", "set WORKERS_NUMBER"), ("RETRY" + "S", "RETRIES is")):
        producer = Sum(engine=NoChildren())
        setattr(producer, name, 3)
        with pytest.raises(UsageError, match=says):
            producer.map(DataSourceFactory([1]))
    producer = Sum(engine="serial")
    producer.WORKERS_NUMBER, producer.mine = 2, 7
    assert producer.map(DataSourceFactory([1, 2, 3])) == 6


@pytest.mark.parametrize("call", ["map", "submit", "partials", "replay"])
def test_a_call_on_the_class_says_that_brackets_are_missing(call):
    with pytest.raises(UsageError, match=rf"{call}\(\) was called on a class.*MyProducer\(\)\.{call}\(\.\.\.\)"):
        getattr(Total, call)(DataSourceFactory([1]))
    with pytest.raises(UsageError, match="was called on a class"):
        getattr(Total, call)(factory=DataSourceFactory([1]))


@pytest.mark.parametrize(
    ("call", "named", "says"),
    [
        ("map", {"time_out": 3}, r"Sum\.map\(\) has no argument 'time_out': did you mean timeout="),
        ("map", {"checkpoints": "x"}, "did you mean checkpoint="),
        ("submit", {"onTimeout": "fail"}, "did you mean on_timeout="),
        ("partials", {"progres": True}, "did you mean progress="),
        ("map", {"retries": 3}, r"RETRIES is an attribute of the class, Sum\.RETRIES = "),
        ("map", {"sparkles": 3}, "it takes checkpoint, factory, on_timeout, progress, timeout"),
    ],
)
def test_an_argument_by_another_name_is_refused(call, named, says):
    with pytest.raises(UsageError, match=says):
        getattr(Sum(engine=NoChildren()), call)(DataSourceFactory([1]), **named)


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"engin": "serial"}, r"Sum\(\) has no argument 'engin': did you mean engine="),
        ({"server": "host"}, "did you mean mq_server="),
        ({"WORKERS_NUMBER": 3}, r"WORKERS_NUMBER is an attribute of the class, Sum\.WORKERS_NUMBER"),
        ({"workers": 3}, "WORKERS_NUMBER is an attribute"),
    ],
)
def test_an_argument_of_a_producer_by_another_name_is_refused(named, says):
    with pytest.raises(UsageError, match=says):
        Sum(**named)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("data.csv", r"the str 'data.csv': its letters would be .*TextLines, path="),
        (b"data.csv", "its numbers would be the records"),
        (Path("data.csv"), "for the lines of a file"),
        (numbers, r"call it, .* DataSourceFactory\(numbers\(\)\)"),
        (yielding, r"DataSourceFactory\(yielding\(\)\)"),
        (asynchronous(None), "it is asynchronous"),
        (pandas.DataFrame({"a": [1]}), "its columns would be the records: give a list of its rows"),
        (numpy.array(3), "a single number"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_data_that_are_no_records_are_refused(data, says):
    with pytest.raises(UsageError, match=says):
        DataSourceFactory(data)


def test_settings_of_a_factory_by_another_name_are_refused():
    with pytest.raises(UsageError, match=r"no attribute 'Limit'.*limit is near"):
        DataSourceFactory(Numbers, Limit=3)
    with pytest.raises(UsageError, match=r"full_length=3: Numbers\.full_length is a function"):
        DataSourceFactory(Numbers, full_length=3)
    with pytest.raises(UsageError, match="limit= and offset= give a slice"):
        DataSourceFactory([1, 2], limits=1)


def source(**members):
    return type("Mine", (DataSource,), {"__module__": __name__, **members})


LENGTH = classmethod(lambda cls: 1)
ITER = lambda self: iter([1])  # noqa: E731 - it becomes a method


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"fulllength": LENGTH, "__iter__": ITER}, "has no full_length: .*; fulllength is not used"),
        ({"length": LENGTH, "__iter__": ITER}, "; length is not used"),
        ({"__len__": lambda self: 1, "__iter__": ITER}, "; __len__ is not used"),
        ({"full_length": 100, "__iter__": ITER}, "Mine.full_length is 100, and has to be a method"),
        ({"full_length": LENGTH, "iter": ITER}, "has no __iter__: .*; nothing calls iter"),
        ({"full_length": LENGTH, "__iter__": ITER, "UNIT": "bytes"}, "Mine.UNIT is not used by anything: unit is"),
        ({"full_length": LENGTH, "__iter__": ITER, "prepares": LENGTH}, "Mine.prepares is not called .* prepare is"),
        ({"full_length": LENGTH, "__iter__": asynchronous}, "Mine.__iter__ is asynchronous"),
        ({"full_length": LENGTH, "__iter__": ITER, "prepare": lambda self: {}}, "Mine.prepare takes self"),
    ],
)
def test_a_source_with_nearly_the_right_names_is_refused(members, says):
    with pytest.raises(UsageError, match=says):
        Sum(engine=NoChildren()).map(DataSourceFactory(source(**members)))


def test_an_error_of_the_users_records_is_not_said_to_be_reduce_fns():
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
        ({"checkpoint": True}, "checkpoint=True: give the path of a file"),
        ({"checkpoint": ""}, "checkpoint='': give the path"),
        ({"progress": "no"}, "progress='no': it is True, False, or None"),
    ],
)
def test_an_argument_of_another_kind_is_refused(named, says):
    with pytest.raises(UsageError, match=says):
        Sum(engine=NoChildren()).map(DataSourceFactory([1]), **named)


def test_listeners_that_are_none_are_refused():
    for listeners in (print, [print, 3]):
        with pytest.raises(UsageError, match=r"give a list of functions, such as \[print\]"):
            Sum(listeners=listeners)


def test_replay_takes_the_errors_of_parts():
    with pytest.raises(UsageError, match="replay takes the PartFailed or PartLost"):
        Sum().replay(ValueError("no"))


@pytest.mark.parametrize(("engine", "meant"), [("process", "processes"), ("Serial", "serial"), ("rays://x", "ray")])
def test_an_engine_that_is_nearly_one_is_named(engine, meant):
    with pytest.raises(UsageError, match=f"did you mean '{meant}'"):
        Sum(engine=engine).map(DataSourceFactory([1]))


@pytest.mark.parametrize("map_fn", [lambda record: record * 2, lambda record: (one for one in [record + 1])])
def test_a_map_fn_that_was_written_for_one_record_is_told_so(map_fn):
    with pytest.raises(PartFailed, match="map_fn is called once a part, with all its records: iterate over it"):
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
    assert "Mine.TIMEOUT is not used by anything: PART_TIMEOUT is" in refused(refused_one())
    assert explained_by_its_name()(engine="serial").map(DataSourceFactory([1])) == 3
    assert explained_by_a_subclass()(engine="serial").map(DataSourceFactory([1])) == 1
