"""An error travels as text, and as itself where it can be pickled."""

import threading

from pymar.exceptions import SinkError, SourceError
from pymar.serialization import loads
from pymar.slots.failures import describe


def raised(error):
    try:
        raise error
    except type(error) as found:
        return found


def test_an_error_of_a_source_or_a_sink_arrives_as_itself():
    for error in (SourceError("a.csv: no column 'x'"), SinkError("record 3 of part 0")):
        failure = describe(raised(error))
        assert failure.error == f"{type(error).__name__}: {error}"
        assert repr(loads(failure.exception)) == repr(error)


def test_one_that_cannot_be_pickled_arrives_as_text():
    for kind in (SourceError, SinkError, ValueError):
        error = kind("a.csv: 403")
        error.response = threading.Lock()
        failure = describe(raised(error))
        assert failure.error == f"{kind.__name__}: a.csv: 403"
        assert failure.exception is None
