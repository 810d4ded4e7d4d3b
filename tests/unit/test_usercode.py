"""What a job's code reaches is found and described: what changes an answer changes a text, and nothing else does."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pymar.serialization import usercode
from pymar.serialization.usercode import UserCode, differences

HEAD = """
import collections, dataclasses, enum, functools, operator, pathlib, re, sys, threading, types
from pymar.producer import Producer
"""
JOB = """
class P(Producer):
    {attribute}
    @staticmethod
    def map_fn(data_source):
        {imported}
        return [{expression} for x in data_source]
    @staticmethod
    def reduce_fn(values):
        return sum(values)
"""


@pytest.fixture
def reached(tmp_path, monkeypatch):
    """A function that returns what the producer of a module with this code reaches."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def reach(expression="x", top="pass", attribute="pass", imported="pass", **files):
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        code = JOB.format(attribute=attribute, imported=imported, expression=expression)
        (tmp_path / "changing.py").write_text(f"{HEAD}{top}\n{code}")
        importlib.invalidate_caches()
        for name in ("changing", *files):
            sys.modules.pop(name, None)
        return UserCode(importlib.import_module("changing").P)

    yield reach
    for name in ("changing", "helper", "deeper"):
        sys.modules.pop(name, None)


CHANGES = {
    "a compiled pattern": ("1 if PAT.search(str(x)) else 0", "PAT = re.compile('$')"),
    "a function in a dict": ("D['f'](x)", "D = {'f': lambda x: x + $}"),
    "a function in an attribute of an instance": ("O.f(x)", "class O: pass\nO = O(); O.f = lambda x: x + $"),
    "a named tuple": ("C.a", "C = collections.namedtuple('C', 'a')($)"),
    "an instance of a dataclass": ("C.a", "@dataclasses.dataclass\nclass D:\n    a: int = 0\nC = D($)"),
    "a default of a dataclass": ("D().a", "@dataclasses.dataclass\nclass D:\n    a: int = $"),
    "a default factory": ("D().a", "@dataclasses.dataclass\nclass D:\n    a: list = dataclasses.field(default_factory=lambda: [$])"),
    "a member of an enumeration": ("E.A.value", "class E(enum.Enum):\n    A = $"),
    "a member of an enumeration of ints": ("E.A", "class E(enum.IntEnum):\n    A = $"),
    "a flag": ("E.A.value", "class E(enum.Flag):\n    A = $"),
    "a method of an enumeration": ("E.A.f()", "class E(enum.Enum):\n    A = 7\n    def f(self): return $"),
    "a partial": ("F(x)", "def m(a, b): return a * b\nF = functools.partial(m, $)"),
    "a keyword of a partial": ("F(x)", "def m(a, b): return a * b\nF = functools.partial(m, b=$)"),
    "an item getter": ("F((x, x, x))", "F = operator.itemgetter($)"),
    "a read-only mapping": ("F['a']", "F = types.MappingProxyType({'a': $})"),
    "a default dict's factory": ("F['x']", "F = collections.defaultdict(lambda: $)"),
    "a path": ("len(str(F))", "F = pathlib.PurePath('$')"),
    "a name with underscores": ("__version__", "__version__ = $"),
    "a name that is looked up": ("globals()['K']", "K = $"),
    "a name in an evaluated text": ("eval('K + 1')", "K = $"),
    "a default of a function": ("f(x)", "def f(x, p=re.compile('$')): return p.search(str(x))"),
    "a default of a keyword": ("f(x)", "def f(x, *, p=$): return p"),
    "a bound method": ("F(x)", "class M:\n    def __init__(self): self.k = $\n    def f(self, x): return self.k\nF = M().f"),
    "a method of an instance": ("m.f(x)", "class M:\n    def f(self, x): return x * $\nm = M()"),
    "a decorator": ("f(x)", "def by(k):\n    def d(f):\n        def g(x): return f(x) * k\n        return g\n    return d\n@by($)\ndef f(x): return x"),
    "a decorator that wraps": ("f(x)", "def d(f):\n    @functools.wraps(f)\n    def g(x): return f(x) * $\n    return g\n@d\ndef f(x): return x"),
    "a cached function": ("f(x)", "@functools.lru_cache\ndef f(x): return $"),
    "a function for one type": ("f(x)", "@functools.singledispatch\ndef f(x): return 0\n@f.register\ndef _(x: int): return $"),
    "a method for one type": ("C().f(x)", "class C:\n    @functools.singledispatchmethod\n    def f(self, x): return 0\n    @f.register\n    def _(self, x: int): return $"),
    "a partial method": ("C().f()", "class C:\n    def g(self, k): return k\n    f = functools.partialmethod(g, $)"),
    "a property": ("C().f", "class C:\n    @property\n    def f(self): return $"),
    "a cached property": ("C().f", "class C:\n    @functools.cached_property\n    def f(self): return $"),
    "a class method": ("C.f()", "class C:\n    @classmethod\n    def f(cls): return $"),
    "a descriptor": ("C().f", "class D:\n    def __get__(self, *a): return $\nclass C:\n    f = D()"),
    "a metaclass": ("C.k", "class M(type):\n    k = $\nclass C(metaclass=M): pass"),
    "a base": ("C.k", "class B:\n    k = $\nclass C(B): pass"),
    "a nested class": ("C.D.k", "class C:\n    class D:\n        k = $"),
    "a slot's value": ("c.k", "class C:\n    __slots__ = ('k',)\nc = C(); c.k = $"),
    "an element of a deque": ("D[0]", "D = collections.deque([$])"),
    "a subclass of a dict": ("D['a']", "class D(dict): pass\nD = D(a=$)"),
    "an attribute of a function": ("f.k", "def f(x): return x\nf.k = $"),
    "a closure": ("f(x)", "def made(k):\n    def f(x): return x * k\n    return f\nf = made($)"),
    "a weak reference": ("r().k", "class C: pass\nc = C(); c.k = $\nimport weakref\nr = weakref.ref(c)"),
    "a context variable": ("v.get()", "import contextvars\nv = contextvars.ContextVar('v')\nv.set($)"),
    "a loop": ("G[0][1]", "G = [None, $]\nG[0] = G"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_the_answer_changes_a_text(reached, name):
    expression, top = CHANGES[name]
    one, other = (reached(expression, top.replace("$", value)) for value in "12")
    assert not one.unknown
    assert differences(one.texts, other.texts)
    assert not differences(one.texts, reached(expression, top.replace("$", "1")).texts)


@pytest.mark.parametrize(
    "attribute", ["_k = $", "k = re.compile('$')", "k = lambda self: $", "class K:\n        k = $"]
)
def test_attributes_of_the_producer_count_whatever_they_are(reached, attribute):
    one, other = (reached(attribute=attribute.replace("$", value)) for value in "12")
    assert differences(one.texts, other.texts)


@pytest.mark.parametrize(
    "imported",
    ["import helper", "from helper import f", "from importlib import import_module; import_module('helper')"],
)
def test_a_module_that_is_imported_where_it_is_used_counts(reached, imported):
    one, other = (reached(imported=imported, helper=f"def f(x): return {value}") for value in "12")
    assert one.modules["helper"].endswith("helper.py")
    assert differences(one.texts, other.texts) == ["the module helper"]
    one, other = (reached(imported=imported, helper="import deeper", deeper=f"K = {value}") for value in "12")
    assert differences(one.texts, other.texts) == ["the module deeper"]


def test_where_an_exception_is_caught_is_part_of_the_code(reached):
    body = "r = 0\n        try:\n            r = int(str(r))\n            {}r = 1 // r\n        except ZeroDivisionError:\n            r = 7"
    one = reached(imported=body.format(""))
    other = reached(
        imported=body.format("").replace("            r = 1 // r\n", "") + "\n        else:\n            r = 1 // r"
    )
    assert differences(one.texts, other.texts)


def test_an_attribute_is_not_taken_for_a_global_variable(reached):
    texts = reached("x.threshold", "threshold = 1").texts
    assert "changing.threshold" not in texts
    assert "changing.threshold" in reached("x.y + threshold", "threshold = 1").texts


def test_equal_values_have_equal_texts_whatever_of_them_is_one_object(reached):
    one = reached("D", "a = 'x' * 100\nD = [a, a, {1: a}]")
    other = reached("D", "D = ['x' * 100, 'x' * 100, {1: 'x' * 100}]\nD[0] = ''.join(D[0])")
    assert one.texts["changing.D"] == other.texts["changing.D"]


def test_the_order_of_equal_dicts_is_kept_apart_from_what_they_hold(reached):
    one, other = reached("D", "D = {'a': 1, 'b': 2}"), reached("D", "D = {'b': 2, 'a': 1}")
    assert one.texts == other.texts
    assert one.order != other.order
    ordered = [reached("D", f"D = collections.OrderedDict({items})") for items in ("a=1, b=2", "b=2, a=1")]
    assert differences(*(code.texts for code in ordered))


def test_texts_are_the_same_in_every_process(tmp_path):
    (tmp_path / "job.py").write_text(
        HEAD
        + "WORDS = {'one', 'two', 'three'}\nKEYS = {word: 0 for word in WORDS}\nNEW = object()\nLOCK = threading.Lock()\n"
        + JOB.format(
            attribute="pass", imported="LOCK, NEW", expression="x in WORDS and x in KEYS and x in {'a', 'b', 'c'}"
        )
        + "\nfrom pymar.serialization.usercode import UserCode\nprint(sorted(UserCode(P).texts.items()))"
    )
    found = {
        subprocess.run(
            [sys.executable, tmp_path / "job.py"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "123"
    }
    assert len(found) == 1


@pytest.mark.parametrize(
    ("top", "name"),
    [("F = memoryview(b'1')", "changing.F"), ("F = [x for x in (i for i in [1])]\nF = (i for i in F)", "changing.F")],
)
def test_what_no_text_can_describe_is_named(reached, top, name):
    code = reached("F", top)
    assert list(code.unknown) == [name]


def test_what_a_user_puts_into_a_library_counts(reached, monkeypatch):
    import json

    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", json.dumps)  # the module replaces it
        code = reached("json.dumps(x)", "import json\njson.dumps = lambda x: 1")
        assert "json.dumps" in code.texts
    assert "json.dumps" not in reached("json.dumps(x)", "import json").texts


def test_the_texts_name_no_folder(reached):
    here = str(Path(__file__).parent)
    assert not [text for text in reached("x", "K = 1").texts.values() if here in text]


STATE = """
import helper
K, T, L, D = 1, (1, 2), [1], {"a": 1}
class C:
    k = 1
    def f(self): return 1
def made():
    n = 1
    def f(): return n
    def put(value):
        nonlocal n
        n = value
    return f, put
f, put = made()
def g(x=1, *, y=1): return x
"""
REPLACED = {
    "a variable": "m.K = 2",
    "a tuple": "m.T = (1, 3)",
    "an element": "m.L[0] = 2",
    "an item": "m.D['a'] = 2",
    "an attribute of a class": "m.C.k = 2",
    "a new attribute of a class": "m.C.more = 2",
    "a method": "m.C.f = lambda self: 2",
    "the code of a function": "m.g.__code__ = (lambda x=1, *, y=1: x + 1).__code__",
    "a default": "m.g.__defaults__ = (2,)",
    "a default of a keyword": "m.g.__kwdefaults__ = {'y': 2}",
    "an attribute of a function": "m.g.k = 2",
    "what a closure holds": "m.put(2)",
    "a variable of another module": "m.helper.K = 2",
    "a function of another module": "m.helper.f = lambda: 2",
    "a name that was a builtin's": "m.len = lambda x: 2",
    "an attribute of the producer": "m.P.more = 2",
}


@pytest.mark.parametrize("name", REPLACED)
def test_what_is_cached_is_found_anew_once_it_has_changed(reached, name):
    helper = "K = 1\ndef f(): return 1\n"
    read = "K, T, C().f(), C.k, f(), g(), helper.K, helper.f(), len(T)"
    for expression in (read, f"{read}, L, D"):
        reached(f"({expression})", STATE, helper=helper)
        module = sys.modules["changing"]
        one = usercode.reached(module.P)
        before = dict(one.texts)
        if expression is read:
            assert usercode.reached(module.P) is one
        if name in ("an element", "an item") and expression is read:
            continue
        exec(REPLACED[name], {"m": module})
        assert usercode.reached(module.P).texts != before
        assert usercode.reached(module.P).texts == UserCode(module.P).texts


def test_subclasses_that_code_asks_for_are_found_anew(reached):
    reached("[one.k for one in Base.__subclasses__()]", "class Base: pass\nclass One(Base): k = 1\n")
    module = sys.modules["changing"]
    before = dict(usercode.reached(module.P).texts)
    exec("class Two(Base): k = 2", vars(module))
    assert set(usercode.reached(module.P).texts) - set(before) == {"the class Two", "Two.k"}


def test_a_program_may_be_deeper_than_the_stack(reached):
    chain = (
        "".join(f"def f{number}(): return f{number + 1}()\n" for number in range(3_000)) + "def f3000(): return {}\n"
    )
    one, other = (reached("helper.f0()", "import helper", helper=chain.format(value)) for value in (1, 2))
    assert not one.unknown
    assert differences(one.texts, other.texts) == ["the code of helper.f3000"]


def test_what_only_one_side_reaches_is_no_difference_but_what_it_lacks_is():
    both = {"the class A": "1", "A.k": "1"}
    assert differences({**both, "the class B": "1", "B.k": "1", "the code of f": "1", "f.cache": "1"}, both) == []
    assert differences({**both, "A.more": "1", "K": "1"}, both) == ["A.more", "K"]
    assert differences(both, {**both, "A.k": "2"}) == ["A.k"]


def test_looking_at_the_annotations_of_a_class_that_has_none_changes_nothing(reached):
    reached("C.k", "class C: k = 1")
    module = sys.modules["changing"]
    before = dict(UserCode(module.P).texts)
    assert not module.C.__annotations__
    assert not module.P.__annotations__
    assert UserCode(module.P).texts == before
