"""An exchange in an object store: the same bits, whatever the store refuses, and nothing left in it."""

import random

import pytest
from bits_jobs import AllKinds, IntKeys, Numbers, Rows, Streamed
from conftest import needed
from s3 import S3

from pymar import DataSourceFactory
from pymar.cli import main
from pymar.events import Exchanged
from pymar.exceptions import PymarError

needed("s3fs")
needed("moto.server")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as patch:
        S3.credentials(patch)
        one = S3()
        patch.setenv("AWS_ENDPOINT_URL", one.storage["endpoint_url"])
        yield one
        one.stop()


@pytest.fixture
def s3(server, monkeypatch):
    server.refuse = lambda environ: None
    server.refused = 0
    monkeypatch.setenv("PYMAR_EXCHANGE", "s3://data/exchange")
    for producer in (AllKinds, IntKeys, Rows, Streamed):
        monkeypatch.setattr(producer, "PARTITIONS", 4)
        monkeypatch.setattr(producer, "WORKERS_NUMBER", 5)
    return server


def exchanges(s3):
    """What is below the prefix of exchanges: the bucket has data of other tests too."""
    there = s3.keys()
    return [key for key in there if key.startswith("exchange/")]


def bits(producer, engine, **given):
    with producer(engine=engine).map(DataSourceFactory(Numbers), **given) as result:
        return [*map(repr, result.items())]


@pytest.fixture
def expected(s3, monkeypatch):
    """Returns the bits of a job whose exchange is a folder."""

    def bits_in_a_folder(producer):
        with monkeypatch.context() as patch:
            patch.delenv("PYMAR_EXCHANGE")
            return bits(producer, "serial")

    return bits_in_a_folder


@pytest.mark.parametrize("producer", [IntKeys, AllKinds, Rows, Streamed])
def test_pairs_go_through_a_store(s3, expected, producer):
    there = []

    def look(event):
        if isinstance(event, Exchanged):
            there.extend(s3.keys("exchange/"))

    with producer(engine="processes://2", listeners=[look]).map(DataSourceFactory(Numbers)) as result:
        found = [*map(repr, result.items())]
    assert len(there) > 1
    assert found == expected(producer)
    assert exchanges(s3) == []


def test_a_store_that_refuses_now_and_then(s3, expected):
    seed = random.randrange(1 << 32)
    print(f"seed={seed}")
    rng = random.Random(seed)
    s3.refuse = lambda environ: rng.choice([503, 500]) if rng.random() < 0.1 else None
    found = bits(IntKeys, "processes://2")
    s3.refuse = lambda environ: None
    assert s3.refused > 0
    assert found == expected(IntKeys)
    assert exchanges(s3) == []


def test_a_store_that_refuses_for_good_is_a_clear_error(s3):
    s3.refuse = lambda environ: 403 if environ["REQUEST_METHOD"] == "PUT" else None
    with pytest.raises(PymarError, match=r"(?s)s3://data/exchange.*"):
        bits(IntKeys, "processes://2")
    s3.refuse = lambda environ: None
    assert exchanges(s3) == []


def test_a_checkpoint_keeps_its_exchange_in_the_store(s3, expected, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    assert bits(IntKeys, "processes://2", checkpoint=checkpoint) == expected(IntKeys)
    assert "checkpoint.exchange" in [path.name for path in tmp_path.iterdir()]
    kept = s3.keys("exchange/")
    puts = []
    s3.refuse = lambda environ: puts.append(environ["PATH_INFO"]) if environ["REQUEST_METHOD"] == "PUT" else None
    assert bits(IntKeys, "processes://2", checkpoint=checkpoint) == expected(IntKeys)
    assert not [path for path in puts if "/parts-" not in path]  # only the list of what is there
    assert sorted(s3.keys("exchange/")) == sorted(kept)
    assert main.main(["clean", str(checkpoint)], standalone_mode=False) in (None, 0)
    assert exchanges(s3) == []
