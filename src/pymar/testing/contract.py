"""The contract suite that every engine passes: a test for each promise. Only parts that have to be slow sleep."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

from pymar.datasource import DataSource, DataSourceFactory
from pymar.engines.base import Engine
from pymar.exceptions import PartFailed, PartLost, PartsFailed
from pymar.keyed import KeyedProducer, Sum
from pymar.parts import Done, Failed
from pymar.producer import Producer
from pymar.sinks import JSONLinesSink
from pymar.sources import JSONLines

#: Bytes of the large partial.
BIG = 100_000_000


class Numbers(DataSource):
    """The whole numbers below `length`."""

    length = 1_000

    @classmethod
    def full_length(cls) -> int:
        return cls.length

    def __iter__(self) -> Iterator[Any]:
        return iter(range(self.offset, self.offset + self.limit))


class Summing(Producer):
    """A sum whose last bits depend on the order of its terms."""

    WORKERS_NUMBER: ClassVar[int | None] = 7
    power: float = -1.5

    @staticmethod
    def map_fn(data_source: Any) -> Any:
        return (float(number + 1) ** Summing.power for number in data_source)

    @staticmethod
    def reduce_fn(data_source: Any) -> Any:
        return sum(data_source)


class Collecting(Producer):
    """The offsets of the parts, in the order in which they are reduced."""

    WORKERS_NUMBER: ClassVar[int | None] = 10

    @staticmethod
    def map_fn(data_source: Any) -> Any:
        return [(data_source.offset, data_source.limit)] if list(data_source) else []

    @staticmethod
    def reduce_fn(data_source: Any) -> Any:
        found = list(data_source)
        return [pair for item in found for pair in (item if isinstance(item, list) else [item])]


class Total(Producer):
    """The sum of the records."""

    WORKERS_NUMBER: ClassVar[int | None] = 10

    @staticmethod
    def map_fn(data_source: Any) -> Any:
        return data_source

    @staticmethod
    def reduce_fn(data_source: Any) -> Any:
        return sum(data_source)


class Raising(Total):
    """Raises on the record 333."""

    @staticmethod
    def map_fn(data_source: Any) -> Any:
        for number in data_source:
            if number == 333:
                password = "hunter2"  # noqa: F841 - it must be redacted in the error
                raise ZeroDivisionError(f"record {number}")
            yield number


class Sleeping(Total):
    """The part of the record 0 sleeps far longer than PART_TIMEOUT."""

    PART_TIMEOUT: ClassVar[float | None] = 0.2
    seconds: float = 1.0

    @staticmethod
    def map_fn(data_source: Any) -> Any:
        if data_source.offset == 0:
            time.sleep(Sleeping.seconds)  # far longer than PART_TIMEOUT: it is stopped before this ends
        return data_source


class Unpicklable(Total):
    """Partials that cannot leave their process."""

    @staticmethod
    def reduce_fn(data_source: Any) -> Any:
        return threading.Lock()


class Unwritable(Total):
    """Yields a record that is no JSON."""

    WORKERS_NUMBER: ClassVar[int | None] = 10

    @staticmethod
    def map_fn(data_source: Any) -> Any:
        return ({number} if number == 333 else number for number in data_source)


class Big(Producer):
    """One large partial."""

    WORKERS_NUMBER: ClassVar[int | None] = 1

    @staticmethod
    def map_fn(data_source: Any) -> Any:
        return data_source

    @staticmethod
    def reduce_fn(data_source: Any) -> Any:
        found = list(data_source)
        return found[0] if isinstance(found[0], bytes) else b"x" * BIG


class Drawing(Producer):
    """Random numbers, drawn in each way that is seeded."""

    WORKERS_NUMBER: ClassVar[int | None] = 20
    SEED: ClassVar[int] = 5

    @staticmethod
    def map_fn(data_source: Any) -> Any:
        return [(data_source.part_seed, random.random(), random.gauss(0, 1))]

    @staticmethod
    def reduce_fn(data_source: Any) -> Any:
        return [pair for item in data_source for pair in (item if isinstance(item, list) else [item])]


class Dying(Total):
    """Kills its process on the record 500: always, or only while `marker`, a file, is not there."""

    marker = ""

    @staticmethod
    def map_fn(data_source: Any) -> Any:
        for number in data_source:
            if number == 500 and not (Dying.marker and os.path.exists(Dying.marker)):
                if Dying.marker:
                    os.close(os.open(Dying.marker, os.O_CREAT))
                os.kill(os.getpid(), signal.SIGKILL)
            yield number


class ByKey(KeyedProducer):
    """Sums of floats by key, whose last bits depend on the order of their terms. Some keys are in each part."""

    WORKERS_NUMBER: ClassVar[int | None] = 7
    reduce_fn: ClassVar[Any] = Sum()
    keys: int = 9_000

    @staticmethod
    def map_fn(data_source: Any) -> Any:
        return ((number * 7919 % ByKey.keys, (number + 1) ** -1.5) for number in data_source)


class ByText(ByKey):
    """The same with texts as keys, and with a function."""

    @staticmethod
    def map_fn(data_source: Any) -> Any:
        return ((f"key {number * 7919 % ByKey.keys}", (number + 1) ** -1.5) for number in data_source)

    @staticmethod
    def reduce_fn(key: str, values: Any) -> Any:
        return sum(values)


class DyingByKey(ByKey):
    """Kills its process on the record 500, while `marker`, a file, is not there."""

    marker = ""

    @staticmethod
    def map_fn(data_source: Any) -> Any:
        for number in data_source:
            if number == 500 and not os.path.exists(DyingByKey.marker):
                os.close(os.open(DyingByKey.marker, os.O_CREAT))
                os.kill(os.getpid(), signal.SIGKILL)
            yield number * 7919 % ByKey.keys, (number + 1) ** -1.5


class DyingInReduce(ByText):
    """Kills its process on the key 500, while `marker`, a file, is not there."""

    marker = ""

    @staticmethod
    def reduce_fn(key: str, values: Any) -> Any:
        if key == "key 500" and not os.path.exists(DyingInReduce.marker):
            os.close(os.open(DyingInReduce.marker, os.O_CREAT))
            os.kill(os.getpid(), signal.SIGKILL)
        return sum(values)


class Histogram(KeyedProducer):
    """How many keys have how many digits before the point, out of pairs that another job has left."""

    reduce_fn: ClassVar[Any] = Sum()

    @staticmethod
    def map_fn(data_source: Any) -> Any:
        for key, _ in data_source:
            yield len(str(key)), 1


class EngineContract:
    """A test for each promise of every engine."""

    def engine(self) -> Engine:
        """Return the engine under test. Called for each job."""
        raise NotImplementedError

    def compute(self, producer: type[Producer], factory: DataSourceFactory | None = None) -> Any:
        """Return the producer's answer over `Numbers`, or over another factory's data, on the engine under test."""
        return producer(engine=self.engine()).map(factory or DataSourceFactory(Numbers))

    def test_the_answer_is_that_of_one_process_to_the_last_bit(self, monkeypatch: Any) -> None:
        for count in (1, 2, 7, 100, 1_000):
            monkeypatch.setattr(Summing, "WORKERS_NUMBER", count)
            expected = Summing(engine="serial").map(DataSourceFactory(Numbers))
            assert self.compute(Summing) == expected

    def test_partials_are_reduced_in_part_order(self) -> None:
        assert self.compute(Collecting) == [(start, 100) for start in range(0, 1_000, 100)]

    def test_more_parts_than_records_make_one_part_a_record(self) -> None:
        assert self.compute(Collecting, DataSourceFactory(Numbers, length=3)) == [(0, 1), (1, 1), (2, 1)]

    def test_no_data_gives_reduce_fn_of_nothing(self) -> None:
        assert self.compute(Total, DataSourceFactory(Numbers, length=0)) == 0

    def test_ten_thousand_parts(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(Total, "WORKERS_NUMBER", 10_000)
        assert self.compute(Total, DataSourceFactory(Numbers, length=10_000)) == 49_995_000

    def test_data_of_the_producer(self) -> None:
        for data in ([1, 2, 3], (1, 2, 3), range(1, 4), {1, 2, 3}, (number for number in (1, 2, 3))):
            assert self.compute(Total, DataSourceFactory(data)) == 6

    def test_settings_reach_the_workers(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(Summing, "power", 1.0)
        assert self.compute(Summing, DataSourceFactory(Numbers, length=10)) == 55.0

    def test_a_part_draws_the_same_numbers_wherever_it_runs(self) -> None:
        drawn = self.compute(Drawing)
        assert drawn == Drawing(engine="serial").map(DataSourceFactory(Numbers))
        assert len(set(drawn)) == Drawing.WORKERS_NUMBER

    def test_a_raising_part_fails_the_job_and_says_where(self) -> None:
        error = self.failure(Raising, PartFailed)
        assert (error.index, error.offset, error.limit) == (3, 300, 100)
        assert "ZeroDivisionError: record 333" in str(error)
        assert "in map_fn" in error.traceback
        assert "number = 333" in error.variables
        assert "hunter2" not in str(error)

    def test_a_raising_part_is_tried_again_if_the_producer_says_so(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(Raising, "RETRIES", 2)
        assert self.failure(Raising, PartFailed).attempt == 2

    def test_parts_may_fail_while_all_others_are_computed(self, tmp_path: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr(Raising, "MAX_FAILED", 1)
        factory, path = DataSourceFactory(Numbers), tmp_path / "run.ckpt"
        error: PartsFailed | None = None
        try:
            Raising(engine=self.engine()).map(factory, checkpoint=path)
        except PartsFailed as failed:
            error = failed
        assert error is not None, "there was an answer"
        assert [one.index for one in error.exceptions] == [3]
        assert (error.done, error.total) == (9, 10)
        # The others are in the checkpoint: only the failed one is computed again.
        events: list[Any] = []
        try:
            Raising(engine=self.engine(), listeners=[events.append]).map(factory, checkpoint=path)
        except PartsFailed as failed:
            error = failed
        assert [one.index for one in error.exceptions] == [3]
        assert {event.index for event in events if isinstance(event, Failed | Done)} == {3}

    def test_a_failed_part_can_be_replayed_here(self) -> None:
        error = self.failure(Raising, PartFailed)
        again: Exception | None = None
        try:
            Raising(engine=self.engine()).replay(error)
        except ZeroDivisionError as raised:
            again = raised
        assert str(again) == "record 333"

    def test_a_value_that_cannot_travel_is_an_error(self) -> None:
        assert "cannot be sent" in str(self.failure(Unpicklable, PartFailed))

    def test_a_part_that_takes_too_long_is_lost(self) -> None:
        error = self.failure(Sleeping, PartLost)
        assert error.index == 0
        assert len(error.causes) == 2
        assert "PART_TIMEOUT" in error.causes[0]

    def test_a_large_value_arrives_whole(self) -> None:
        assert len(self.compute(Big)) == BIG

    def test_partials_can_be_closed_early(self) -> None:
        partials = Total(engine=self.engine()).partials(DataSourceFactory(Numbers))
        assert next(partials) >= 0
        partials.close()  # type: ignore[attr-defined]  # it is a generator; users see an iterator
        assert self.compute(Total) == 499_500

    def test_a_producer_maps_again_and_again(self) -> None:
        producer = Total(engine=self.engine())
        assert [producer.map(DataSourceFactory(Numbers)) for _ in range(20)] == [499_500] * 20

    def test_records_are_written_and_read_back(self, tmp_path: Any) -> None:
        self.write(Total, str(tmp_path / "out"))

    def test_a_record_that_does_not_fit_leaves_nothing(self, tmp_path: Any) -> None:
        target = str(tmp_path / "out")
        failed: PartFailed | None = None
        try:
            Unwritable(engine=self.engine()).write(DataSourceFactory(Numbers), JSONLinesSink(target))
        except PartFailed as error:
            failed = error
        assert failed is not None, "what is no JSON was written"
        assert failed.index == 3
        assert "SinkError" in failed.error
        assert os.listdir(tmp_path) == []

    def test_keys_are_reduced_to_the_same_bits_in_the_same_order(self, monkeypatch: Any) -> None:
        for producer in (ByKey, ByText):
            for keys in (20, 9_000):  # the second goes through files
                monkeypatch.setattr(ByKey, "keys", keys)
                expected = [*self.by_key(producer, "serial").items()]
                assert len(expected) == keys
                assert [*self.by_key(producer, self.engine()).items()] == expected

    def test_a_result_is_the_source_of_the_next_job(self) -> None:
        with self.by_key(ByKey, self.engine()) as result:
            digits = Histogram(engine=self.engine()).map(DataSourceFactory(result)).to_dict()
        assert digits == {1: 10, 2: 90, 3: 900, 4: 8_000}

    def test_keys_are_written_and_read_back(self, tmp_path: Any) -> None:
        target = str(tmp_path / "out")
        factory = DataSourceFactory(Numbers, length=20_000)
        assert ByKey(engine=self.engine()).write(factory, JSONLinesSink(target)).records == 9_000
        there = DataSourceFactory(JSONLines, path=target).build_data_source()
        found: dict[int, float] = {record["key"]: record["value"] for record in there}
        assert found == self.by_key(ByKey, "serial").to_dict()

    def by_key(self, producer: type[KeyedProducer], engine: Any) -> Any:
        """Return the result of a keyed producer over 20,000 numbers."""
        return producer(engine=engine).map(DataSourceFactory(Numbers, length=20_000))

    def write(self, producer: type[Producer], target: str) -> None:
        """Write `Numbers` with a producer that yields them, and compare what is read back."""
        written = producer(engine=self.engine()).write(DataSourceFactory(Numbers), JSONLinesSink(target))
        assert written.records == 1_000
        there = DataSourceFactory(JSONLines, path=target).build_data_source()
        assert list(there) == list(range(1_000))
        assert os.listdir(os.path.dirname(target)) == [os.path.basename(target)]

    def failure(self, producer: type[Producer], kind: type[Any]) -> Any:
        """Return the error that the job ends with."""
        try:
            value = self.compute(producer)
        except kind as error:
            return error
        raise AssertionError(f"there was an answer, {value!r:.100}, and no {kind.__name__}")


class IsolatedContract(EngineContract):
    """As EngineContract, and the promises of engines whose parts run in processes of their own."""

    def test_a_killed_worker_costs_only_its_own_part(self, tmp_path: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr(Dying, "marker", str(tmp_path / "died"))
        assert self.compute(Dying) == 499_500

    def test_a_killed_worker_writes_nothing_twice(self, tmp_path: Any, monkeypatch: Any) -> None:
        (tmp_path / "target").mkdir()
        monkeypatch.setattr(Dying, "marker", str(tmp_path / "died"))
        self.write(Dying, str(tmp_path / "target" / "out"))
        assert (tmp_path / "died").exists()

    def test_a_worker_killed_in_either_stage_changes_no_bit(self, tmp_path: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr(DyingByKey, "marker", str(tmp_path / "in map"))
        monkeypatch.setattr(DyingInReduce, "marker", str(tmp_path / "in reduce"))
        for dying, living in ((DyingByKey, ByKey), (DyingInReduce, ByText)):
            assert [*self.by_key(dying, self.engine()).items()] == [*self.by_key(living, "serial").items()]
        assert (tmp_path / "in map").exists()
        assert (tmp_path / "in reduce").exists()

    def test_a_part_that_kills_its_workers_is_lost_after_four_attempts(self) -> None:
        error = self.failure(Dying, PartLost)
        assert error.index == 5
        assert len(error.causes) == 4
        assert all("SIGKILL" in cause for cause in error.causes)
