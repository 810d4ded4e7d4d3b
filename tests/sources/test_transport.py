"""A store that is away for a moment costs an attempt at the part, and not the job; the error names the file."""

import http.server
import threading
from typing import ClassVar

import pytest
from conftest import needed

from pymar.datasource import DataSourceFactory
from pymar.exceptions import PartFailed, PartLost
from pymar.parts import Lost
from pymar.producer import Producer
from pymar.sources import TextLines
from pymar.sources.storage import is_passing

DATA = b"line\n" * 1_000


@pytest.fixture
def server():
    """Serves DATA; `failures` are what the next requests for a range get: a status, or "cut" in the middle."""
    needed("fsspec")
    needed("aiohttp")

    class Server(http.server.BaseHTTPRequestHandler):
        failures: ClassVar[list] = []

        def log_message(self, *given):
            pass

        def do_HEAD(self):
            self.answer(200, b"", len(DATA))

        def do_GET(self):
            start, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            data = DATA[int(start) : int(end or len(DATA) - 1) + 1]
            failure = Server.failures.pop(0) if Server.failures and int(end or 0) > 1_000 else None
            if failure == "cut":
                self.answer(206, data[: len(data) // 2], len(data))
                self.connection.close()
            elif failure:
                self.answer(failure, b"", 0)
            else:
                self.answer(206, data, len(data))

        def answer(self, code, body, size):
            self.send_response(code)
            for name, value in (("Content-Length", str(size)), ("Accept-Ranges", "bytes"), ("ETag", "one")):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    one = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=one.serve_forever, daemon=True)
    thread.start()
    Server.url = f"http://127.0.0.1:{one.server_address[1]}/a.txt"
    yield Server
    one.shutdown()
    one.server_close()
    thread.join()


def lines(server, **settings):
    class Lines(Producer):
        WORKERS_NUMBER = 2

        @staticmethod
        def map_fn(data_source):
            return [list(data_source)]

        @staticmethod
        def reduce_fn(lists):
            return [line for lines in lists for line in lines]

    return Lines(engine="serial", **settings).map(DataSourceFactory(TextLines, path=server.url))


@pytest.mark.parametrize("failure", [429, 500, 502, 503, 504, "cut"])
def test_a_server_that_fails_once_costs_an_attempt(server, failure):
    server.failures = [failure]
    lost = []
    found = lines(server, listeners=[lambda event: isinstance(event, Lost) and lost.append(event)])
    assert found == ["line"] * 1_000
    assert [event.cause.kind for event in lost] == ["source"]
    assert not server.failures


def test_a_server_that_fails_for_ever_is_named_with_the_file(server):
    server.failures = [503] * 100
    with pytest.raises(PartLost) as lost:
        lines(server)
    assert "a.txt" in str(lost.value)
    assert "503" in str(lost.value)


def test_what_will_not_pass_fails_at_once(server):
    server.failures = [403] * 100
    with pytest.raises(PartFailed, match=r"a\.txt|403"):
        lines(server)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (FileNotFoundError("a"), False),
        (PermissionError("a"), False),
        (ValueError("no"), False),
        (type("ClientPayloadError", (Exception,), {})("cut"), True),
        (type("EndpointConnectionError", (Exception,), {})("away"), True),
        (type("ClientError", (Exception,), {"response": {"ResponseMetadata": {"HTTPStatusCode": 503}}})(), True),
        (type("ClientError", (Exception,), {"response": {"ResponseMetadata": {"HTTPStatusCode": 404}}})(), False),
    ],
)
def test_what_passes_is_told_from_what_does_not(error, passes):
    assert is_passing(error) is passes
    outer = OSError("outer")
    outer.__cause__ = error
    assert is_passing(outer) is passes
