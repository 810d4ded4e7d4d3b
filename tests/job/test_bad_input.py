"""Wrong input is refused before anything starts, with the class, the value and the remedy."""

import re
import threading

import pytest

from pymar.datasource import DataSource, DataSourceFactory
from pymar.exceptions import BrokerRefused, PartFailed, UsageError
from pymar.producer import Producer
from pymar.testing import Numbers, Total


class Unreachable:
    """An engine on which no job may be started."""

    name = "none"
    batch_seconds = 0.002

    def start(self, job):
        raise AssertionError("the job was started")


def refused(producer_class, factory=None):
    with pytest.raises(UsageError) as error:
        producer_class(engine=Unreachable()).map(factory or DataSourceFactory(Numbers))
    return str(error.value)


def source(**members):
    return type("MySource", (DataSource,), {"__iter__": lambda self: iter(()), **members})


def length(value):
    return source(full_length=classmethod(lambda cls: value))


def raising(cls):
    raise OSError("no such disk")


@pytest.mark.parametrize(
    ("source_class", "words"),
    [
        (source(), ["MySource", "full_length", "define @classmethod"]),
        (length(-1), ["MySource.full_length", "-1", "zero or more"]),
        (length(2.5), ["MySource.full_length", "2.5", "an int"]),
        (length("3"), ["MySource.full_length", "'3'"]),
        (length(None), ["MySource.full_length", "None"]),
        (length(True), ["MySource.full_length", "True"]),
        (source(full_length=classmethod(raising)), ["MySource.full_length", "OSError: no such disk"]),
        (source(full_length=lambda self: 1), ["MySource.full_length", "put @classmethod above it"]),
        (
            source(prepare=classmethod(lambda cls: 7), full_length=classmethod(lambda cls: 1)),
            ["MySource.prepare", "7", "dict"],
        ),
    ],
)
def test_a_source_without_a_proper_length_is_refused(source_class, words):
    message = refused(Total, DataSourceFactory(source_class))
    assert all(word in message for word in words), message


def test_a_source_without_iter_is_refused():
    class Mine(DataSource):
        @classmethod
        def full_length(cls):
            return 10

    message = refused(Total, DataSourceFactory(Mine))
    assert "Mine" in message
    assert "__iter__" in message
    assert "self.offset" in message


class TooFew(Numbers):
    def __iter__(self):
        return iter(range(self.offset, self.offset + self.limit - 1))


class TooMany(Numbers):
    def __iter__(self):
        return iter(range(self.offset, self.offset + self.limit + 1))


class Endless(Numbers):
    def __iter__(self):
        while True:
            yield 1


@pytest.mark.parametrize("engine", ["serial", "processes://2"])
@pytest.mark.parametrize(
    ("source_class", "says"),
    [(TooFew, "99 instead of 100"), (TooMany, "more than its limit"), (Endless, "more than its limit")],
)
def test_a_source_that_yields_another_number_of_records_is_an_error(engine, source_class, says):
    with pytest.raises(PartFailed) as failed:
        Total(engine=engine).map(DataSourceFactory(source_class))
    assert f"{source_class.__name__}.__iter__" in str(failed.value)
    assert says in str(failed.value)


class Bytes(TooFew):
    unit = "bytes"


class First(Total):
    @staticmethod
    def map_fn(data_source):
        for number in data_source:
            yield number
            break


class Twice(Total):
    @staticmethod
    def map_fn(data_source):
        return [sum(data_source) - sum(data_source) + 1]


@pytest.mark.parametrize("engine", ["serial", "processes://2"])
def test_a_source_may_be_counted_in_another_unit_left_early_or_read_twice(engine):
    assert Total(engine=engine).map(DataSourceFactory(Bytes)) == sum(range(1_000)) - sum(range(99, 1_000, 100))
    assert First(engine=engine).map(DataSourceFactory(Numbers)) == sum(range(0, 1_000, 100))
    assert Twice(engine=engine).map(DataSourceFactory(Numbers)) == 10


@pytest.mark.parametrize("number", [0, -1, 2.5, "4", True])
def test_a_number_of_parts_that_is_none_is_refused(number, monkeypatch):
    monkeypatch.setattr(Total, "WORKERS_NUMBER", number)
    message = refused(Total)
    assert "Total.WORKERS_NUMBER" in message
    assert repr(number) in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PART_TIMEOUT", 0),
        ("PART_TIMEOUT", "1"),
        ("MEMORY_LIMIT", 1.5),
        ("MEMORY_LIMIT", -1),
        ("ATTEMPTS", 0),
        ("RETRIES", -1),
        ("RETRIES", None),
        ("BACKUPS", "x"),
        ("SEED", 1.5),
    ],
)
def test_limits_that_make_no_sense_are_refused(name, value, monkeypatch):
    monkeypatch.setattr(Total, name, value)
    message = refused(Total)
    assert f"Total.{name}" in message
    assert repr(value) in message


def test_a_producer_without_its_functions_is_refused():
    class Empty(Producer):
        pass

    class OnlyMap(Producer):
        @staticmethod
        def map_fn(data_source):
            return data_source

    assert re.match("Empty .*map_fn", refused(Empty))
    assert re.match("OnlyMap .*reduce_fn", refused(OnlyMap))


def test_functions_that_are_not_static_are_refused():
    class Plain(Total):
        def map_fn(data_source):  # noqa: N805 - the mistake that is tested
            return data_source

    message = refused(Plain)
    assert "Plain.map_fn" in message
    assert "@staticmethod" in message


def test_a_reduce_fn_that_is_a_generator_is_refused():
    class Yielding(Total):
        @staticmethod
        def reduce_fn(data_source):
            yield from data_source

    assert re.match(r"Yielding\.reduce_fn .*generator", refused(Yielding))


class Returning(Total):
    @staticmethod
    def reduce_fn(data_source):
        return (number for number in data_source)


@pytest.mark.parametrize("engine", ["serial", "processes://2"])
def test_a_reduce_fn_that_returns_a_generator_is_an_error(engine):
    with pytest.raises((UsageError, PartFailed), match=r"Returning\.reduce_fn .*generator"):
        Returning(engine=engine).map(DataSourceFactory(Numbers))


def test_instances_and_classes_are_not_confused():
    with pytest.raises(UsageError, match=r"instance.*DataSourceFactory\(Numbers\)"):
        DataSourceFactory(Numbers())
    with pytest.raises(UsageError, match=r"int .*DataSource"):
        DataSourceFactory(int)
    with pytest.raises(UsageError, match="got 5"):
        DataSourceFactory(5)
    assert "DataSourceFactory(Numbers)" in refused(Total, Numbers)
    assert "DataSourceFactory" in refused(Total, [1, 2])


@pytest.mark.parametrize("arguments", [{"limit": -1}, {"offset": -1}, {"limit": 1.5}, {"offset": "1"}, {"limit": True}])
def test_a_slice_that_is_none_is_refused(arguments):
    with pytest.raises(UsageError, match=next(iter(arguments))):
        DataSourceFactory(Numbers, **arguments)


def test_settings_need_a_class():
    with pytest.raises(UsageError, match=r"\['dx'\]"):
        DataSourceFactory([1], dx=1)


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ("spark", "'spark'"),
        ("processes://none", "processes://none.*number of processes"),
        ("processes://0", "processes://0.*number of processes"),
        ("serial://4", "engine='serial'"),
        (Unreachable, "object with start"),
        (7, "object with start"),
    ],
)
def test_an_engine_that_is_none_is_refused(engine, says):
    with pytest.raises(UsageError, match=says):
        Total(engine=engine).map(DataSourceFactory(Numbers))


@pytest.mark.parametrize(("engine", "library"), [("dask", "distributed"), ("ray", "ray"), ("ray", "grpc")])
def test_an_engine_whose_library_is_not_installed_is_named_with_the_command_that_installs_it(script, engine, library):
    code = f"""
import sys
sys.modules[{library!r}] = None  # what Python takes for an absent module
from pymar import DataSourceFactory, Producer

class Total(Producer):
    map_fn = staticmethod(list)
    reduce_fn = staticmethod(sum)

Total(engine="{engine}://").map(DataSourceFactory([1, 2]))
"""
    done = script(code, check=False)
    assert "MissingExtra" in done.stderr
    assert f"pip install 'pymar[{engine}]'" in done.stderr


@pytest.mark.parametrize(("timeout", "then"), [(-1, "fail"), ("1", "fail"), (1, "explode")])
def test_a_time_out_that_is_none_is_refused(timeout, then):
    with pytest.raises(UsageError, match="timeout"):
        Total(engine=Unreachable()).map(DataSourceFactory(Numbers), timeout, then)


def test_a_job_that_cannot_travel_is_refused_before_its_parts():
    numbers = (number for number in range(10))

    class Holding(Total):
        @staticmethod
        def map_fn(data_source):
            return [next(numbers)]

    with pytest.raises(UsageError, match=r"numbers .*Holding\.map_fn .*generator"):
        Holding(engine="processes://2").map(DataSourceFactory(Numbers))


def test_records_that_cannot_travel_fail_their_part():
    with pytest.raises(PartFailed, match="the data of part 2") as failed:
        Total(engine="processes://2").map(DataSourceFactory([1, 2, threading.Lock()]))
    assert failed.value.index == 2


def test_a_generator_can_be_read_by_one_job_only():
    factory = DataSourceFactory(number for number in range(10))
    assert Total(engine="serial").map(factory) == 45
    with pytest.raises(UsageError, match=r"generator .*read only once"):
        Total(engine="serial").map(factory)


def test_a_slice_beyond_the_data_is_refused():
    with pytest.raises(UsageError, match=r"limit=1001 .* full_length\(\) is 1000"):
        Total(engine="serial").map(DataSourceFactory(Numbers, limit=1_001))
    with pytest.raises(UsageError, match="limit=1000 at offset=1"):
        Total(engine="serial").map(DataSourceFactory(Numbers, limit=1_000, offset=1))


def test_a_misspelt_setting_is_refused():
    with pytest.raises(UsageError, match=r"Numbers .*'lenght'.*\['length'\]"):
        DataSourceFactory(Numbers, lenght=3)


class Declared(Numbers):
    start: int

    def __iter__(self):
        return iter(range(self.start + self.offset, self.start + self.offset + self.limit))


def test_a_setting_may_be_declared_without_a_value():
    assert Total(engine="serial").map(DataSourceFactory(Declared, start=1)) == 500_500


def test_a_misspelt_knob_is_refused():
    class Misspelt(Total):
        WORKER_NUMBER = 3

    assert re.match(r"Misspelt\.WORKER_NUMBER .*WORKERS_NUMBER", refused(Misspelt))


class Nothing(Total):
    @staticmethod
    def map_fn(data_source):
        sum(data_source)


@pytest.mark.parametrize("engine", ["serial", "processes://2"])
def test_what_a_function_returns_is_named(engine):
    with pytest.raises(PartFailed, match=r"Nothing\.map_fn .*None.*yield or return"):
        Nothing(engine=engine).map(DataSourceFactory(Numbers))


class Fickle(Total):
    @staticmethod
    def reduce_fn(data_source):
        return [sum(data_source)]


def test_the_error_of_a_reduce_fn_that_cannot_take_what_it_returns_has_where_it_ran():
    with pytest.raises(TypeError) as error:
        Fickle(engine="serial").map(DataSourceFactory(Numbers))
    assert "Fickle.reduce_fn" in error.value.__notes__[0]
    assert "partials" in error.value.__notes__[0]


def test_an_open_file_does_not_travel_as_its_text():
    with open(__file__) as file, pytest.raises(PartFailed, match=r"the data of part 0.*is an open file"):
        Total(engine="processes://2").map(DataSourceFactory([file]))


def test_a_server_that_is_not_there_is_an_error_and_not_a_silent_fall_back():
    with pytest.raises(BrokerRefused, match=r"amqp://127.0.0.1:1 .*RabbitMQ"):
        Total("127.0.0.1:1").map(DataSourceFactory(Numbers))
