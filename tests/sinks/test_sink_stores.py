"""Sinks into an object store: all or nothing for whoever reads by the manifest, whatever the store refuses."""

import contextlib

import pytest
from conftest import needed
from s3 import S3

from pymar.cli import main
from pymar.datasource import DataSourceFactory
from pymar.exceptions import PartFailed, PartLost, PymarError, SinkError, SourceError
from pymar.parts import Part
from pymar.producer import Producer
from pymar.sinks import ArraySink, Files, JSONLinesSink, ParquetSink, TextSink
from pymar.sinks.targets import Store
from pymar.sources import JSONLines, ParquetRows
from pymar.testing import check_sink

needed("s3fs")
needed("moto.server")
arrow = needed("pyarrow")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Same(Producer):
    WORKERS_NUMBER = 5

    @staticmethod
    def map_fn(records):
        yield from records


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as patch:
        S3.credentials(patch)
        one = S3()
        yield one
        one.stop()


@pytest.fixture
def s3(server, request):
    server.refuse = lambda environ: None
    server.refused = 0
    server.prefix = request.node.name.replace("[", "-").replace("]", "")
    server.path = f"s3://data/{server.prefix}"
    return server


def read(s3):
    try:
        return list(DataSourceFactory(JSONLines, path=s3.path, storage=s3.storage).build_data_source())
    except SourceError:
        return None


def write(s3, records, **settings):
    return Same().write(DataSourceFactory(records), JSONLinesSink(s3.path, storage=s3.storage, **settings))


def test_records_read_back(s3):
    rows = [{"n": n, "text": f"é{n}"} for n in range(200)]
    factory = DataSourceFactory(ParquetRows, path=s3.path, storage=s3.storage)
    check_sink(ParquetSink(s3.path, storage=s3.storage), factory, rows)
    assert all(not key.removeprefix(f"{s3.prefix}/").startswith("_pymar-") for key in s3.keys(s3.prefix))


def test_arrays_and_files_too(s3):
    numpy = needed("numpy")
    blocks = [numpy.arange(n, n + 4) for n in range(10)]
    written = Same().write(DataSourceFactory(blocks), ArraySink(f"{s3.path}/a", storage=s3.storage))
    assert (written.records, written.files) == (40, 1)
    (key,) = [key for key in s3.keys(f"{s3.prefix}/a") if key.endswith(".npy")]
    s3.client.download_file("data", key, "/dev/null")
    records = [("x/é.bin", b"1"), ("y", b"")]
    Same().write(DataSourceFactory(records), Files(f"{s3.path}/f", storage=s3.storage))
    assert {f"{s3.prefix}/f/x/é.bin", f"{s3.prefix}/f/y"} <= set(s3.keys(f"{s3.prefix}/f"))


def test_modes(s3):
    write(s3, [1, 2])
    with pytest.raises(SinkError, match="mode='overwrite'"):
        write(s3, [3])
    write(s3, [3], mode="append")
    assert read(s3) == [1, 2, 3]
    write(s3, [4, 5], mode="overwrite")
    assert read(s3) == [4, 5]
    assert len(s3.keys(f"{s3.prefix}/")) == 2


def test_append_to_objects_of_somebody_else(s3):
    s3.client.put_object(Bucket="data", Key=f"{s3.prefix}/mine.jsonl", Body=b'"mine"\n')
    with pytest.raises(SinkError, match=r"mine\.jsonl"):
        write(s3, [1])
    write(s3, [1], mode="append")
    assert read(s3) == ["mine", 1]


def test_a_part_of_an_upload_that_is_refused(s3):
    """A multipart upload of 12 MB, of whose parts the second is refused."""
    s3.refuse = lambda environ: 403 if "partNumber=2" in environ.get("QUERY_STRING", "") else None
    texts = [f"{n:099d}" for n in range(140_000)]

    class One(Same):
        WORKERS_NUMBER = 1

    storage = {**s3.storage, "default_block_size": 5 << 20}
    with pytest.raises(PartFailed, match=r"(?s)SinkError.*data/test_a_part_of") as raised:
        One().write(DataSourceFactory(texts), TextSink(s3.path, storage=storage))
    assert "refused by the test" in str(raised.value)
    assert s3.refused > 0
    assert s3.keys(s3.prefix) == []
    assert "Uploads" not in s3.client.list_multipart_uploads(Bucket="data")


def test_a_store_that_is_busy_now_and_then(s3):
    count = iter(range(10_000))
    s3.refuse = lambda environ: 503 if environ["REQUEST_METHOD"] == "PUT" and next(count) % 4 == 0 else None
    write(s3, list(range(500)), records_a_file=50)
    assert s3.refused > 3
    assert read(s3) == list(range(500))


def test_a_store_that_refuses_to_list_is_named(s3):
    s3.refuse = lambda environ: 403
    with pytest.raises(SinkError, match="s3://data/"):
        write(s3, [1])


@pytest.mark.parametrize("mode", ["new", "overwrite", "append"])
@pytest.mark.parametrize("step", range(7))
def test_each_step_of_the_commit_refused(s3, mode, step):
    """A store that refuses one of the requests of a commit: the target is as before, or whole."""
    before = None if mode == "new" else ["before"]
    if before:
        write(s3, before)
    sink = JSONLinesSink(s3.path, storage=s3.storage, mode=mode, records_a_file=1).for_a_job()
    sink.begin(None)
    wrote = [sink.write(Part(number, 0, 0, 0), iter([number])) for number in range(3)]
    steps = iter(range(100))
    s3.refuse = lambda environ: 403 if environ["REQUEST_METHOD"] == "PUT" and next(steps) == step else None
    is_refused = False
    try:
        sink.commit(wrote, [])
    except SinkError:
        is_refused = True
    s3.refuse = lambda environ: None
    whole = [*(before or []), 0, 1, 2] if mode == "append" else [0, 1, 2]
    assert read(s3) in ((before, []) if is_refused and mode == "new" else (before,) if is_refused else (whole,))


class Gone(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("mode", ["new", "overwrite", "append"])
@pytest.mark.parametrize("step", range(8))
def test_a_commit_that_ends_between_any_two_steps(s3, mode, step, monkeypatch):
    before = None if mode == "new" else ["before"]
    if before:
        write(s3, before)
    sink = JSONLinesSink(s3.path, storage=s3.storage, mode=mode, records_a_file=1).for_a_job()
    sink.begin(None)
    wrote = [sink.write(Part(number, 0, 0, 0), iter([number])) for number in range(3)]
    system = sink._target()._system
    steps = iter(range(100))

    def ends(call):
        def wrapped(*arguments, **named):
            if next(steps) >= step:
                raise Gone
            return call(*arguments, **named)

        return wrapped

    with monkeypatch.context() as patched:
        for name in ("copy", "pipe_file", "rm_file"):
            patched.setattr(system, name, ends(getattr(system, name)))
        with contextlib.suppress(Gone):
            sink.commit(wrote, [])
    whole = [*(before or []), 0, 1, 2] if mode == "append" else [0, 1, 2]
    found = read(s3)
    assert found in (before or [], None if before is None else before, whole)
    monkeypatch.setattr("pymar.sinks.cleaning.targets.cleaned", lambda path, _: Store(path, s3.storage, "").clean())
    main.main(["clean", s3.path], standalone_mode=False)
    assert read(s3) == found
    keys = [key.removeprefix(f"{s3.prefix}/") for key in s3.keys(f"{s3.prefix}/")]
    assert not [key for key in keys if key.startswith("_pymar-")]
    write(s3, ["after"], mode="append")
    assert read(s3) == [*(found or []), "after"]


def test_two_jobs_into_one_target(s3):
    def listen(event):
        if type(event).__name__ == "JobStarted":
            write(s3, ["second"])

    with pytest.raises(SinkError, match="somebody else"):
        Same(listeners=[listen]).write(DataSourceFactory(["first"]), JSONLinesSink(s3.path, storage=s3.storage))
    assert read(s3) == ["second"]


def test_a_bucket_that_is_not_there_is_named(s3):
    with pytest.raises((SinkError, PartFailed, PartLost), match="nowhere") as raised:
        Same().write(DataSourceFactory([1]), TextSink("s3://nowhere/out", storage=s3.storage))
    assert isinstance(raised.value, PymarError)


def test_two_runs_with_checkpoints_of_one_name(s3, tmp_path):
    for number in range(2):
        sink = JSONLinesSink(s3.path, storage=s3.storage, mode="append")
        Same().write(DataSourceFactory(range(number * 5, number * 5 + 5)), sink, checkpoint=tmp_path / "c")
        (tmp_path / "c").unlink()
    assert read(s3) == list(range(10))


@pytest.mark.parametrize("mode", ["append", "overwrite"])
def test_objects_that_are_there_are_not_written_over(s3, mode):
    Same().write(DataSourceFactory([("a", b"old a")]), Files(s3.path, storage=s3.storage))
    s3.client.put_object(Bucket="data", Key=f"{s3.prefix}/mine", Body=b"mine")
    for name in ("a", "mine"):
        with pytest.raises(SinkError, match="is there already"):
            Same().write(DataSourceFactory([(name, b"new")]), Files(s3.path, storage=s3.storage, mode=mode))
    for name, body in (("a", b"old a"), ("mine", b"mine")):
        assert s3.client.get_object(Bucket="data", Key=f"{s3.prefix}/{name}")["Body"].read() == body


def test_a_target_below_a_folder_with_a_sign_and_one_with_stars(s3):
    for name in ("day=5/x", "a*b", "c?d", "e[0]f"):
        path = f"{s3.path}/{name}"
        Same().write(DataSourceFactory([{"v": 1}]), JSONLinesSink(path, storage=s3.storage))
        assert list(DataSourceFactory(JSONLines, path=path, storage=s3.storage).build_data_source()) == [{"v": 1}]


def test_clean_leaves_what_is_not_ours(s3, monkeypatch):
    write(s3, [1])
    Same().write(DataSourceFactory([2]), JSONLinesSink(f"{s3.path}/inner", storage=s3.storage))
    for key in ("notes.txt", "_pymar-0123abcd/p00000000-0-00000000-000000", "part-00000-0123abcd.jsonl"):
        s3.client.put_object(Bucket="data", Key=f"{s3.prefix}/{key}", Body=b"1\n")
    monkeypatch.setattr("pymar.sinks.cleaning.targets.cleaned", lambda path, _: Store(path, s3.storage, "").clean())
    main.main(["clean", s3.path], standalone_mode=False)
    keys = [key.removeprefix(f"{s3.prefix}/") for key in s3.keys(f"{s3.prefix}/")]
    assert "notes.txt" in keys
    assert len([key for key in keys if key.startswith("inner/")]) == 2
    assert not [key for key in keys if "0123abcd" in key]
    assert read(s3) == [1]
