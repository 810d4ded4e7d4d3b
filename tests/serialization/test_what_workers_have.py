"""Workers compute with the script of the producer, its modules as they are now, and the settings of its interpreter."""

import subprocess
import sys

import pytest
from conftest import PATIENCE

HEAD = """
import importlib, os, sys, time
from pymar.datasource import DataSource, DataSourceFactory
from pymar.producer import Producer

def job(fn, engine="processes://1"):
    class P(Producer):
        @staticmethod
        def map_fn(records):
            return [[fn()] for _ in records]

        @staticmethod
        def reduce_fn(lists):
            return [value for values in lists for value in values]

    return P(engine=engine).map(DataSourceFactory([1]))[0]
"""


@pytest.fixture
def run(tmp_path):
    """Run a script, with other files beside it; return the finished process."""

    def run(code, *options, guard=False, check=True, **files):
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        if guard:
            code = code.replace("GUARD", "if __name__ == '__main__':\n    pass\n")
        (tmp_path / "job.py").write_text(HEAD + code)
        done = subprocess.run(
            [sys.executable, *options, "job.py"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


def test_a_module_that_is_edited_and_reloaded_is_the_new_one_in_workers(run):
    code = """
sys.dont_write_bytecode = True
import edited
print(job(lambda: edited.f(1)))
with open("edited.py", "w") as file:
    file.write("def f(x): return x * 1000\\n")
importlib.reload(edited)
print(edited.f(1), job(lambda: edited.f(1)))
"""
    assert run(code, edited="def f(x): return x\n").stdout == "1\n1000 1000\n"


def test_a_module_that_is_edited_and_not_reloaded_is_the_old_one_or_an_error(run):
    code = """
sys.dont_write_bytecode = True
import edited
with open("edited.py", "w") as file:
    file.write("def f(x): return x * 1000\\n")
print(job(lambda: edited.f(1)))
"""
    done = run(code, edited="def f(x): return x\n", check=False)
    assert "the code of edited.f" in done.stderr
    assert "Start the script" in done.stderr


STATE = """
import collections, dataclasses, enum, pathlib

class Mode(enum.Enum):
    ONE = 1
    TWO = 2

@dataclasses.dataclass
class Config:
    threshold: int = 1

NT = collections.namedtuple("NT", "t")
number, config, mode, nt, new, table = 1, Config(), Mode.ONE, NT(1), object(), {"f": lambda: 1}

def helper():
    return 1

class Model:
    _private = 1
    path = pathlib.Path("1")

    def method(self):
        return 1

def look(given=new):
    return [number, config.threshold, mode.value, nt.t, helper(), table["f"](), Model._private, str(Model.path),
            Model().method(), given is new]
"""


@pytest.mark.parametrize("end", ["", "if __name__ == '__main__':\n    pass\n"])
def test_values_of_modules_that_were_changed_travel(run, end):
    change = """
import pathlib
import state

def change():
    state.number, state.config, state.mode, state.nt = 2, state.Config(2), state.Mode.TWO, state.NT(2)
    state.helper, state.table = lambda: 2, {"f": lambda: 2}
    state.Model._private, state.Model.path, state.Model.method = 2, pathlib.Path("2"), lambda self: 2
"""
    calls = "print(job(state.look))\nchange()\nprint(job(state.look), job(state.look, 'serial') == job(state.look))\n"
    code = change + ("if __name__ == '__main__':\n    " + calls.replace("\n", "\n    ") + "\n" if end else calls)
    first = str([1, 1, 1, 1, 1, 1, 1, "1", 1, True])
    assert run(code, state=STATE).stdout == f"{first}\n{first.replace('1', '2')} True\n"


HOLDING = """
import functools, sqlite3

def remembering(function):
    cache = {}

    @functools.wraps(function)
    def remembers(x):
        if x not in cache:
            cache[x] = function(x)
        return cache[x]

    return remembers

@remembering
def closed(x):
    return x + 1

NEW = object()

def defaulted(x, memo={}, *, scale=1, new=NEW):
    return memo.setdefault(x, x * scale), new is NEW

def counting(x):
    counting.calls += 1
    counting.seen = {*getattr(counting, "seen", ()), x}
    return x

counting.calls = 0

class Connection:
    _made = None
    known = None

    @classmethod
    def made(cls):
        if cls._made is None:
            cls._made = sqlite3.connect(":memory:")
            cls._known = object()
        return cls._made

def use(x):
    return closed(x), defaulted(x), counting(x), Connection.made().execute("select 1").fetchone()
"""


@pytest.mark.parametrize("warmed", ["", "    holding.use(7)\n    holding.defaulted.__kwdefaults__['scale'] = 3\n"])
def test_what_functions_and_classes_remember_neither_fails_a_job_nor_ends_a_worker_process(run, warmed):
    code = """
import holding
def fn():
    return holding.use(2), os.getpid()
if True:
WARM    found = [job(fn) for _ in range(4)]
    print({answer for answer, _ in found} == {job(lambda: holding.use(2), "serial")}, len({pid for _, pid in found}))
"""
    assert run(code.replace("WARM", warmed), holding=HOLDING).stdout == "True 1\n"


def test_what_a_job_puts_on_functions_and_classes_does_not_reach_the_next(run):
    code = """
import holding
def leave():
    holding.counting.seen = {99}
    holding.Connection._made = 5
    holding.defaulted.__defaults__[0][3] = "left"
    holding.closed.__closure__[0].cell_contents[3] = "left"
def look():
    made = holding.Connection._made
    return getattr(holding.counting, "seen", None), made, holding.closed(3), holding.defaulted(3)[0]
job(leave)
print(job(look))
"""
    assert run(code, holding=HOLDING).stdout == "(None, None, 4, 3)\n"


def test_jobs_that_take_turns_keep_their_worker_processes_whatever_their_setup_sets(run):
    code = """
import turns
class A(Producer):
    letter = "A"
    @classmethod
    def setup_fn(cls):
        turns.ready = turns.Value(cls.letter)
    @staticmethod
    def map_fn(records):
        return [[(turns.ready.value, turns.f(record), os.getpid())] for record in records]
    @staticmethod
    def reduce_fn(lists):
        return sum(lists, [])
class B(A):
    letter = "B"
found = [kind(engine="processes://1").map(DataSourceFactory([1]))[0] for _ in range(3) for kind in (A, B)]
print([row[:2] for row in found] == [("A", 1), ("B", 1)] * 3, len({pid for *_, pid in found}))
"""
    turns = """
class Value:
    def __init__(self, value): self.value = value
ready, cache = None, {}
def f(x): return cache.setdefault(x, Value(x)).value
"""
    assert run(code, turns=turns).stdout == "True 1\n"


def test_what_several_modules_hold_is_one_thing_in_workers(run):
    code = """
import one, other
one.shared.value = 5
print(job(other.look))
"""
    one = "class Value: value = 1\nshared = Value()\n"
    other = (
        "import one\nfrom one import shared\ndef look(again=shared): return shared is one.shared is again, shared.value"
    )
    assert run(code, one=one, other=other).stdout == "(True, 5)\n"


@pytest.mark.parametrize("end", ["", "GUARD"])
def test_classes_that_are_found_through_their_base_are_there(run, end):
    code = """
import base
class Mine(base.Base):
    def f(self): return 5
class Deeper(Mine):
    def f(self): return 6
GUARD
print(job(base.look))
"""
    base = """
class Base: pass
def look():
    return sorted(cls().f() for below in Base.__subclasses__() for cls in (below, *below.__subclasses__()))
"""
    assert run(code.replace("GUARD", end), guard=bool(end), base=base).stdout == "[5, 6]\n"


def test_variables_that_became_plain_data_or_were_deleted_are_that_in_workers(run):
    code = """
import changed
def look():
    return [getattr(value, "value", value) for value in changed.look()]
for change in ("changed.a = 5", "changed.C.b = 6", "changed.C._c = 7", "changed.a = changed.Value(8)", "del changed.d"):
    exec(change)
    print(job(look) == job(look, "serial"), job(look))
"""
    changed = """
class Value:
    def __init__(self, value): self.value = value
a, d = Value(1), Value(1)
class C:
    b, _c = Value(1), Value(1)
def look(): return [a, C.b, C._c, "d" in globals()]
"""
    last = "True [8, 6, 7, False]"
    assert run(code, changed=changed).stdout.splitlines()[-1] == last
    assert "False [" not in run(code, changed=changed).stdout


def test_jobs_at_the_same_time_share_worker_processes_whatever_they_fill(run):
    code = """
import threading
import filled
class A(Producer):
    WORKERS_NUMBER = 20
    @staticmethod
    def map_fn(records):
        return [filled.f(record) for record in records]
    @staticmethod
    def reduce_fn(values):
        return sum(values)
class B(A):
    pass
if __name__ == "__main__":
    filled.start = filled.Value(1000)
    first = {}
    def run(kind):
        first[kind] = [kind(engine="processes://2").map(DataSourceFactory(range(40))) for _ in range(5)]
    threads = [threading.Thread(target=run, args=(kind,)) for kind in (A, B)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print({value for values in first.values() for value in values}, len(first))
"""
    filled = """
class Value:
    def __init__(self, value): self.value = value
start, cache = Value(0), {}
def f(x):
    if x not in cache:
        cache[x] = Value(x + start.value)
    return cache[x].value
"""
    assert run(code, filled=filled).stdout == "{40780} 2\n"


def test_a_value_that_is_too_large_to_be_sent_and_differs_is_named(run):
    state = "class Held: pass\nbig = None, Held()\ndef look(): return len(big[0] or b'')\n"
    code = "import state\nstate.big = b'x' * 2_000_000, state.Held()\nprint(job(state.look))\n"
    done = run(code, state=state, check=False)
    assert "state.big is tuple(" in done.stderr
    assert "setting" in done.stderr


@pytest.mark.parametrize("name", ["plugin", "plugins.mine"])
def test_a_module_that_no_import_finds_travels_by_value(run, name):
    code = f"""
from importlib.util import module_from_spec, spec_from_file_location
os.mkdir("elsewhere")
with open("elsewhere/plug.py", "w") as file:
    file.write('''
class Rec:
    def __init__(self, value): self.value = value
def make(): return Rec(45)
K = 7
def k(): return K
''')
spec = spec_from_file_location({name!r}, "elsewhere/plug.py")
module = module_from_spec(spec)
sys.modules[{name!r}] = module
spec.loader.exec_module(module)
found = job(module.make)
print(found.value, type(found) is module.Rec, job(lambda: module.k()))
"""
    assert run(code).stdout == "45 True 7\n"


@pytest.mark.parametrize("engine", ["None", "'processes://2'"])
def test_a_module_that_begins_a_job_when_it_is_imported_is_refused_with_the_remedy(run, engine):
    unguarded = (
        HEAD
        + f"""
class Q(Producer):
    @staticmethod
    def map_fn(records): return records
    @staticmethod
    def reduce_fn(records): return sum(records)
print("loaded", file=open(os.environ.get("LOG", "log"), "a"))
print(Q(engine={engine}).map(DataSourceFactory(range(4))))
"""
    )
    done = run("import unguarded", unguarded=unguarded, check=False)
    assert "unguarded.py begins a job" in done.stderr
    assert "`if __name__ == '__main__':`" in done.stderr


@pytest.mark.parametrize("engine", ["None", "'processes://2'", "'serial'"])
def test_a_job_within_a_job_shares_its_slot(run, engine):
    code = f"""
def inner():
    return job(os.getpid, {engine}), os.getpid()
found, outer = job(inner)
print(found == outer != os.getpid())
"""
    assert run(code).stdout == "True\n"


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("sys.frozen = True", "frozen program"),
        ("sys.executable = None", "sys.executable"),
        ("sys.executable = '/bin/true'", "/bin/true"),
        ("sys.executable = '/nowhere/python'", "/nowhere/python"),
    ],
)
def test_a_program_that_is_no_interpreter_starts_no_worker_processes(run, setting, says):
    done = run(f"{setting}\nprint(job(os.getpid))", check=False)
    assert says in done.stderr
    assert "engine='serial'" in done.stderr


LEAVES = {
    "the environment": ("os.environ['LEFT'] = '1'", "os.environ.get('LEFT')"),
    "the folder": ("os.chdir('/')", "os.getcwd() == HERE"),
    "decimal's precision": ("setattr(decimal.getcontext(), 'prec', 3)", "str(1 / decimal.Decimal(3))"),
    "numpy's errors": ("numpy.seterr(all='raise')", "str(numpy.geterr())"),
    "the recursion limit": ("sys.setrecursionlimit(500)", "sys.getrecursionlimit()"),
    "warnings": ("warnings.simplefilter('error')", "warnings.filters[0][0]"),
    "the locale": ("locale.setlocale(locale.LC_ALL, 'C.UTF-8')", "locale.setlocale(locale.LC_NUMERIC)"),
    "the time zone": ("(os.environ.update(TZ='Asia/Tokyo'), time.tzset())", "time.localtime(0).tm_hour"),
    "a function of a library": ("setattr(json, 'dumps', lambda value: 'mine')", "json.dumps(1)"),
    "a function of a module": ("setattr(state, 'f', lambda: 2)", "state.f()"),
    "a value of a module": ("setattr(state, 'c', state.C())", "state.c.__class__.__name__"),
    "csv's limit": ("csv.field_size_limit(5)", "csv.field_size_limit()"),
}


@pytest.mark.parametrize("name", LEAVES)
def test_what_one_job_leaves_in_a_process_does_not_reach_the_next(run, name):
    leave, look = LEAVES[name]
    code = f"""
import csv, decimal, json, locale, numpy, state, time, warnings
HERE = os.getcwd()
def look(): return {look}
def leave(): {leave}
def both(): return look(), leave()
before = look()
print(job(look) == before, job(both)[0] == before, job(look) == before, job(both)[0] == before, job(look) == before)
"""
    assert run(code, state="class C: pass\nc = None\ndef f(): return 1\n").stdout == "True " * 4 + "True\n"


def test_the_script_that_workers_load_is_the_one_that_runs_not_what_it_has_become(run):
    code = """
def f(): return 1
if __name__ == "__main__":
    text = open("job.py").read()
    with open("job.py", "w") as file:
        file.write(text.replace("return 1", "return 1000"))
    print(job(f))
"""
    assert run(code).stdout == "1\n"


def test_variables_that_are_set_under_the_guard_reach_the_workers(run):
    code = """
import dataclasses
@dataclasses.dataclass
class Config:
    value: int
config, number, table = Config(1), 1, {"f": len}
def look(): return config.value, number, late, table["f"]("ab"), late_function()
if __name__ == "__main__":
    config, number, late, table["f"] = Config(2), 2, [2], str.upper
    def late_function(): return 2
    print(job(look))
"""
    assert run(code).stdout == "(2, 2, [2], 'AB', 2)\n"


def test_large_data_that_is_set_under_the_guard_reaches_the_workers(run):
    code = """
table = {}
def look(): return len(table), len(data)
if __name__ == "__main__":
    data = bytes(3_000_000)
    table.update((number, "x" * 10) for number in range(200_000))
    print(job(look))
"""
    assert run(code).stdout == "(200000, 3000000)\n"


def test_modules_in_a_zip_file(run, tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "lib.zip", "w") as file:
        file.writestr("zipped.py", "K = 3\ndef f(): return K\n")
    assert run("sys.path.insert(0, 'lib.zip')\nimport zipped\nprint(job(zipped.f))\n").stdout == "3\n"


def test_code_that_values_lead_to_is_compared_with_the_values_in_their_places(run):
    module = "one = lambda: 1\ntwo = lambda: 2\ntable = [one, two]\ndef look(): return [f() for f in table]\n"
    code = "import state\nstate.table = [state.two, lambda: 3, state.one]\nprint(job(state.look))\n"
    assert run(code, state=module).stdout == "[2, 3, 1]\n"


def test_a_job_outside_of_the_guard_does_not_load_the_script(run):
    code = "print(job(lambda: 1))\nif __name__ == '__main__':\n    print(job(lambda: 2))\n"
    assert run(code).stdout.startswith("1\n")


WRITES = {
    "open('result', 'w')": "opens 'result' for writing",
    "os.open('result', os.O_CREAT | os.O_WRONLY)": "opens 'result' for writing",
    "__import__('pathlib').Path('result').write_text('x')": "opens 'result' for writing",
    "os.remove('gone') if os.path.exists('gone') else None": "removes a file",
    "__import__('subprocess').run(['true'])": "starts a process",
    "os.system('true')": "starts a process",
    "__import__('socket').create_connection(('127.0.0.1', 9), 0.1)": "connects a socket",
}


@pytest.mark.parametrize("write", WRITES)
def test_a_script_that_writes_when_it_is_loaded_is_refused_with_the_line(run, tmp_path, write):
    (tmp_path / "gone").touch()
    top = f"if __name__ == '__mp_main__' or 'socket' not in {write!r}:\n    try: {write}\n    except OSError: pass\n"
    code = top.replace(write, f"({write}, open('gone', 'a') if __name__ == '__main__' else 0)")
    done = run(code + "def f(): return 1\nif __name__ == '__main__':\n    print(job(f))\n", check=False)
    assert WRITES[write] in done.stderr
    assert "in line" in done.stderr


def test_what_imported_modules_write_is_allowed(run):
    code = "import writer\ndef f(): return writer.K\nif __name__ == '__main__':\n    print(job(f))\n"
    assert run(code, writer="open('cache', 'w').close()\nK = 5\n").stdout == "5\n"


def test_what_cannot_be_sent_is_named_with_what_reads_it(run):
    code = "lines = (line for line in 'abc')\ndef f(): return next(lines)\nprint(job(f))\n"
    done = run(code, check=False)
    assert "the variable lines, which f reads" in done.stderr
    assert "generator" in done.stderr
    assert "`if __name__ == '__main__':`" in done.stderr
    guarded = (
        "lines = (line for line in 'abc')\ndef f(): return next(lines)\nif __name__ == '__main__':\n    print(job(f))\n"
    )
    assert run(guarded).stdout == "a\n"


@pytest.mark.parametrize(
    "options", [("-m", "cProfile"), ("-m", "trace", "--count", "-C", "covers"), ("-m", "pdb", "-c", "c")]
)
def test_under_a_profiler_partials_are_of_the_scripts_classes(run, options):
    code = """
class Rec:
    def __init__(self, value): self.value = value
def make(): return Rec(45)
found = job(make)
print("ANSWER", found.value, type(found) is Rec)
"""
    assert "ANSWER 45 True" in run(code, *options, check=False).stdout


def test_jobs_within_a_spawned_process(run):
    code = """
import multiprocessing
class Rec:
    def __init__(self, value): self.value = value
def make(): return Rec(45)
def spawned(queue):
    found = job(make)
    queue.put((found.value, type(found) is Rec))
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=spawned, args=(queue,))
    process.start()
    print(queue.get(timeout=20))
    process.join()
"""
    assert run(code).stdout == "(45, True)\n"


def test_a_script_that_is_run_by_its_path(run, tmp_path):
    (tmp_path / "other.py").write_text(HEAD + "class Rec: pass\nfound = job(Rec)\nprint(type(found) is Rec)\n")
    assert run("import runpy\nrunpy.run_path('other.py')\n").stdout == "True\n"


INTERRUPTED = """
class Source(DataSource):
    @classmethod
    def full_length(cls): return 10
    def __iter__(self):
        return SOURCE
def first(iterable): return next(iter(iterable))
def f(x): return x if x != 4 else first([])
class P(Producer):
    WORKERS_NUMBER = 1
    @staticmethod
    def map_fn(records): return MAPPED
    @staticmethod
    def reduce_fn(values): return sum(values)
print(P(engine="serial").map(DataSourceFactory(DATA)))
"""


@pytest.mark.parametrize(
    ("source", "mapped", "data"),
    [
        ("map(f, range(self.offset, self.offset + self.limit))", "records", "Source"),
        ("iter(range(10))", "map(f, records)", "Source"),
        ("iter(range(10))", "filter(f, records)", "Source"),
        ("iter(range(10))", "map(int, map(f, records))", "Source"),
        ("iter(range(10))", "map(f, records)", "range(10)"),
        ("iter(range(10))", "(f(x) for x in records)", "range(10)"),
    ],
)
def test_a_stop_iteration_in_users_code_never_shortens_a_part(run, source, mapped, data):
    code = INTERRUPTED.replace("SOURCE", source).replace("MAPPED", mapped).replace("DATA", data)
    done = run(code, check=False)
    assert "PartFailed" in done.stderr, done.stdout
    right = code.replace("x if x != 4 else first([])", "x")
    assert run(right).stdout == "45\n"


def test_a_part_that_stops_early_is_no_error(run):
    for mapped in ("[first(map(f, records))]", "map(f, [1, 2])", "map(lambda x, y: x, records, range(3))"):
        code = INTERRUPTED.replace("SOURCE", "iter(range(10))").replace("MAPPED", mapped).replace("DATA", "Source")
        run(code)


@pytest.mark.parametrize(
    ("top", "says"),
    [
        ("out = open('result', 'w')\n", "opens 'result' for writing in line 17"),
        ("import unguarded\n", "unguarded.py begins a job in line 17"),
        ("try: open('result', 'w')\nexcept Exception: pass\n", "opens 'result' for writing in line 17"),
    ],
)
def test_a_job_file_that_does_more_than_define_is_served_by_no_worker(tmp_path, top, says):
    job = "class P(Producer):\n    map_fn = reduce_fn = staticmethod(sum)\n"
    (tmp_path / "unguarded.py").write_text(HEAD + "print(job(len))\n")
    (tmp_path / "served.py").write_text(HEAD + top + job + "print(P().map(DataSourceFactory([1])))\n")
    command = [sys.executable, "-m", "pymar", "worker", "served.py", "-q", "127.0.0.1:1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert says in done.stderr
    assert not (tmp_path / "result").exists()


def test_annotations_of_a_job_file_are_not_texts(tmp_path):
    code = "from pymar.serialization.jobfile import load\nprint(load('job.py').f.__annotations__)"
    (tmp_path / "job.py").write_text("def f(x: int): pass\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "{'x': <class 'int'>}\n"


def test_a_serial_job_leaves_nothing_in_the_script(run):
    code = """
import decimal
def leave():
    decimal.getcontext().prec, os.environ["LEFT"] = 3, "1"
    os.chdir("/")
    return decimal.getcontext().prec
here = os.getcwd()
print(job(leave, "serial"), decimal.getcontext().prec, os.environ.get("LEFT"), os.getcwd() == here)
"""
    assert run(code).stdout == "3 28 None True\n"
