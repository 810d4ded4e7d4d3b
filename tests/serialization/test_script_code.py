"""All that a script defines means the same in its workers, with a guard (they load it) and without (by value)."""

import subprocess
import sys

import pytest
from conftest import PATIENCE

DEFINITIONS = """
import abc, collections, contextlib, contextvars, copy, csv, dataclasses, decimal, enum, functools, inspect, itertools
import logging, operator, os, pickle, re, struct, sys, threading, types, typing, weakref
from pymar.datasource import DataSourceFactory
from pymar.producer import Producer

@dataclasses.dataclass(slots=True)
class Slotted:
    v: int
class Private:
    __slots__ = ("__v", "w")
    def __init__(self, v): self.__v = v
    def v(self): return self.__v
@dataclasses.dataclass(frozen=True, order=True)
class Frozen:
    v: int
    tags: list = dataclasses.field(default_factory=list)
class Tagged:
    def __init_subclass__(cls, *, tag): cls.tag = tag
class Child(Tagged, tag="t"): pass
class Meta(type):
    def __new__(m, n, b, ns, *, opt): c = super().__new__(m, n, b, ns); c.opt = opt; return c
    def __init__(c, n, b, ns, *, opt): super().__init__(n, b, ns)
class OfMeta(metaclass=Meta, opt=1): pass
registry = []
class Plugin:
    def __init_subclass__(cls): registry.append(cls.__name__)
class Registered(Plugin): pass
class Planet(enum.Enum):
    EARTH = (5, "blue")
    MARS = (4, "red")
    SAME = (5, "blue")
    def __new__(cls, mass, colour):
        member = object.__new__(cls)
        member._value_ = mass
        member.colour = colour
        return member
    @property
    def heavy(self): return self.value > 4
class Level(enum.IntEnum):
    LOW = 1
    HIGH = enum.auto()
class Right(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()
    BOTH = READ | WRITE
class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...
class Square(Shape):
    def area(self): return 4
@Shape.register
class Other: pass
T = typing.TypeVar("T")
class Box(typing.Generic[T]):
    def __init__(self, v): self.v = v
class Sized(typing.Protocol):
    def size(self) -> int: ...
class Movie(typing.TypedDict):
    name: str
UserId = typing.NewType("UserId", int)
Point = collections.namedtuple("Pt", "x")
class Pair(typing.NamedTuple):
    a: int
    b: int = 2
Dynamic = type("Other name", (), {"k": 7})
class Twice:
    def __init__(self, v): self.v = v
    def value(self): return self.v
Old = Twice
class Twice:
    def __init__(self, v): self.v = v
    def value(self): return -self.v
class Outer:
    class Inner:
        k = 3
        def __eq__(self, other): return type(other) is Outer.Inner
        __hash__ = None
class Base:
    def __init__(self, v): self.v = v
class Derived(Base):
    def __init__(self, v): super().__init__(v + 1)
    @functools.cached_property
    def once(self): return self.v * 2
    @classmethod
    def make(cls): return cls(1)
    @staticmethod
    def static(): return 9
    @property
    def prop(self): return self.v
    @prop.setter
    def prop(self, v): self.v = v
class Descriptor:
    def __set_name__(self, owner, name): self.name = name
    def __get__(self, instance, owner): return self.name
class Described:
    field = Descriptor()
class Error(Exception):
    def __init__(self, code, text): super().__init__(text); self.code = code
class Counter2(collections.Counter): pass
class Callable2:
    def __call__(self, x): return x + 1
class Singleton:
    _one = None
    def __new__(cls):
        if cls._one is None: cls._one = super().__new__(cls)
        return cls._one

@functools.lru_cache(maxsize=None)
def cached(x): return x * x
@functools.singledispatch
def kind(v): return "object"
@kind.register
def _(v: int): return "int"
class Dispatching:
    @functools.singledispatchmethod
    def f(self, v): return "object"
    @f.register
    def _(self, v: int): return "int"
def locked(fn):
    lock = threading.Lock()
    @functools.wraps(fn)
    def inner(*a):
        with lock: return fn(*a)
    return inner
@locked
def guarded(v): return v
def traced(fn):
    @functools.wraps(fn)
    def wrapper(x): return ("traced", fn(x))
    return wrapper
def base(x): return x
better = traced(base)
@contextlib.contextmanager
def managed(): yield 5
async def coroutine(): return 6
def generator(): yield from (1, 2)
def recursive(n): return 1 if n == 0 else n * recursive(n - 1)
def even(n): return n == 0 or odd(n - 1)
def odd(n): return n != 0 and even(n - 1)
def made(k):
    def f(x): return x * k
    return f
closed = made(3)
half = functools.partial(operator.mul, 0.5)
by_name = {"f": lambda x: x + 1}
variable = contextvars.ContextVar("variable", default=1)
packer = struct.Struct("<i")
pattern = re.compile("a+")
reference = weakref.ref(Base)
graph = {}
graph["self"] = graph
CONST = 41
def with_globals(): return globals()["CONST"]
def of_main():
    import __main__
    return __main__.CONST
def pickled(): return pickle.loads(pickle.dumps(base))(8)
def pickled_instance(): return pickle.loads(pickle.dumps(Frozen(1))) == Frozen(1)
def pooled():
    import multiprocessing
    with multiprocessing.get_context("fork").Pool(1) as pool: return pool.map(base, [1, 2])
def source(): return "class Base" in inspect.getsource(Base)

class Wrapping:
    def __init__(self, fn): self.fn = fn; functools.update_wrapper(self, fn)
    def __call__(self, x): return self.fn(x) + 1
@Wrapping
def wrapped_by_class(x): return x * 10
def counter():
    count = 0
    def up():
        nonlocal count
        count += 1
        return count
    def now(): return count
    return up, now
up, now = counter()
Functional = enum.Enum("Functional", "A B")
class Text(enum.StrEnum):
    A = "a"
class Reduced:
    def __init__(self, v): self.v = v; self.file = open(os.devnull)
    def __reduce__(self): return Reduced, (self.v,)
class Stated:
    def __init__(self, v): self.v = v; self.lock = threading.Lock()
    def __getstate__(self): return {"v": self.v}
    def __setstate__(self, state): self.__init__(state["v"])
class InitVars:
    pass
@dataclasses.dataclass
class InitVars:
    a: int
    b: dataclasses.InitVar[int] = 2
    _: dataclasses.KW_ONLY
    c: typing.Annotated[int, "x"] = 3
    d: typing.ClassVar[int] = 4
    def __post_init__(self, b): self.e = b
def with_default(x, seen=[]): return seen
with_default.__defaults__[0].append(5)
def annotated(x: Frozen) -> Slotted: return x
def variadic(*args, key=1, **kw): return args, key, kw
class Indexed(dict):
    def __missing__(self, key): return key
class Meta2(type):
    @property
    def name2(cls): return cls.__name__
    def __len__(cls): return 7
class OfMeta2(metaclass=Meta2): pass
class Mixin:
    def who(self): return "mixin"
class Mixed(Mixin, Base): pass
class WithClassGetitem:
    def __class_getitem__(cls, item): return (cls, item)
class Weak:
    __slots__ = ("v", "__weakref__")
class Cells:
    def me(self): return __class__
class Frozen2(tuple):
    def __new__(cls, *values): return super().__new__(cls, values)
    def __getnewargs__(self): return tuple(self)
    @property
    def first(self): return self[0]
class Number(int):
    unit = "m"
class Chained(Exception): pass
def chained():
    try:
        try: raise ValueError("inner")
        except ValueError as error: raise Chained("outer") from error
    except Chained as error: return type(error.__cause__).__name__
def walrus(xs): return [y for x in xs if (y := x * 2) > 2]
def matched(x):
    match x:
        case Frozen(v=v): return v
        case [a, *rest]: return rest
        case _: return None
type_table = {int: "int", Frozen: "frozen"}
nested = {"a": [Frozen(1), {"b": Planet.MARS}]}
sentinel = object()
def is_sentinel(x=sentinel): return x is sentinel
logger = logging.getLogger("mine")
stack = contextlib.ExitStack()

decimal.getcontext().prec = 50
sys.setrecursionlimit(20_000)
csv.field_size_limit(10**9)
def deep(n): return n and 1 + deep(n - 1)

FORMS = {
    "slots": (lambda: Slotted(1), lambda r: type(r) is Slotted and r.v == 1),
    "private slots": (lambda: Private(2), lambda r: type(r) is Private and r.v() == 2),
    "a frozen dataclass": (lambda: Frozen(1, [2]), lambda r: r == Frozen(1, [2])),
    "a keyword of a class": (lambda: Child.tag, lambda r: r == "t"),
    "a keyword of a metaclass": (lambda: OfMeta.opt, lambda r: r == 1),
    "a registry": (lambda: (Registered(), list(registry))[1], lambda r: r == ["Registered"]),
    "an enumeration with __new__": (lambda: (Planet.EARTH, Planet.MARS.colour, Planet.EARTH.heavy, Planet(4)),
                                    lambda r: r == (Planet.EARTH, "red", True, Planet.MARS)),
    "an alias of a member": (lambda: Planet.SAME is Planet.EARTH, lambda r: r is True),
    "an enumeration of ints": (lambda: (Level.HIGH, Level.HIGH + 1), lambda r: r == (Level.HIGH, 3) and r[0] is Level.HIGH),
    "a flag": (lambda: (Right.READ | Right.WRITE, Right.BOTH), lambda r: r == (Right.BOTH, Right.BOTH)),
    "an abstract class": (lambda: (Square().area(), isinstance(Square(), Shape), isinstance(Other(), Shape)),
                          lambda r: r == (4, True, True)),
    "an abstract class alone": (lambda: _raises(TypeError, Shape), lambda r: r),
    "a generic class": (lambda: Box[int](3), lambda r: type(r) is Box and r.v == 3),
    "a protocol": (lambda: Sized.__name__, lambda r: r == "Sized"),
    "a typed dict": (lambda: Movie(name="x"), lambda r: r == {"name": "x"}),
    "a new type": (lambda: UserId(3), lambda r: r == 3),
    "a named tuple by another name": (lambda: Point(1), lambda r: type(r) is Point),
    "a named tuple": (lambda: Pair(1), lambda r: type(r) is Pair and r == (1, 2)),
    "a class that is made": (lambda: Dynamic(), lambda r: type(r) is Dynamic),
    "a class that was replaced": (lambda: Old(1), lambda r: type(r) is Old and r.value() == 1),
    "the class that replaced it": (lambda: Twice(1), lambda r: type(r) is Twice and r.value() == -1),
    "a nested class": (lambda: Outer.Inner(), lambda r: type(r) is Outer.Inner and r == Outer.Inner()),
    "super": (lambda: Derived(1), lambda r: type(r) is Derived and r.v == 2),
    "a cached property": (lambda: Derived(1).once, lambda r: r == 4),
    "a class method": (lambda: Derived.make(), lambda r: type(r) is Derived and r.v == 2),
    "a static method": (lambda: Derived.static(), lambda r: r == 9),
    "a property that is set": (lambda: _set(Derived(1), "prop", 8).v, lambda r: r == 8),
    "a descriptor's name": (lambda: Described().field, lambda r: r == "field"),
    "an exception as a value": (lambda: Error(3, "text").code, lambda r: r == 3),
    "a subclass of Counter": (lambda: Counter2("aab"), lambda r: type(r) is Counter2 and r["a"] == 2),
    "a callable object": (lambda: Callable2()(1), lambda r: r == 2),
    "a singleton": (lambda: Singleton() is Singleton(), lambda r: r is True),
    "a cached function": (lambda: [cached(x) for x in range(3)], lambda r: r == [0, 1, 4]),
    "a function for one type": (lambda: (kind(1), kind("")), lambda r: r == ("int", "object")),
    "a method for one type": (lambda: (Dispatching().f(1), Dispatching().f("")), lambda r: r == ("int", "object")),
    "a lock in a decorator": (lambda: guarded(7), lambda r: r == 7),
    "a wrapper as a value": (lambda: better, lambda r: r is better and r(1) == ("traced", 1)),
    "a function as a value": (lambda: base, lambda r: r is base),
    "a class as a value": (lambda: Derived, lambda r: r is Derived),
    "a context manager": (lambda: _entered(managed()), lambda r: r == 5),
    "a coroutine": (lambda: __import__("asyncio").run(coroutine()), lambda r: r == 6),
    "a generator": (lambda: list(generator()), lambda r: r == [1, 2]),
    "recursion": (lambda: recursive(5), lambda r: r == 120),
    "functions that call each other": (lambda: (even(4), odd(4)), lambda r: r == (True, False)),
    "a closure": (lambda: closed(2), lambda r: r == 6),
    "a partial": (lambda: half(4), lambda r: r == 2),
    "a lambda in a dict": (lambda: by_name["f"](1), lambda r: r == 2),
    "a context variable": (lambda: variable.get(), lambda r: r == 1),
    "a struct": (lambda: packer.pack(1), lambda r: r == bytes([1, 0, 0, 0])),
    "a pattern": (lambda: pattern.findall("caab"), lambda r: r == ["aa"]),
    "a weak reference": (lambda: reference() is Base, lambda r: r is True),
    "a dict that holds itself": (lambda: graph["self"] is graph, lambda r: r is True),
    "globals()": (lambda: with_globals(), lambda r: r == 41),
    "import __main__": (lambda: of_main(), lambda r: r == 41),
    "pickle of a function": (lambda: pickled(), lambda r: r == 8),
    "pickle of an instance": (lambda: pickled_instance(), lambda r: r is True),
    "a pool within": (lambda: pooled(), lambda r: r == [1, 2]),
    "inspect.getsource": (lambda: source(), lambda r: r is True),
    "decimal's precision": (lambda: str(decimal.Decimal(1) / 3), lambda r: len(r) == 52),
    "the recursion limit": (lambda: deep(5_000), lambda r: r == 5_000),
    "csv's field limit": (lambda: csv.field_size_limit(), lambda r: r == 10**9),
    "a class as a decorator": (lambda: wrapped_by_class(2), lambda r: r == 21),
    "closures that share a variable": (lambda: (up(), up(), now()), lambda r: r[2] == r[1] == r[0] + 1),
    "an enumeration by its function": (lambda: Functional.B, lambda r: r is Functional.B),
    "an enumeration of texts": (lambda: Text.A, lambda r: r is Text.A and r == "a"),
    "__reduce__": (lambda: Reduced(4), lambda r: type(r) is Reduced and r.v == 4),
    "__getstate__": (lambda: Stated(4), lambda r: type(r) is Stated and r.v == 4),
    "fields of a dataclass": (lambda: InitVars(1, c=9), lambda r: (r.a, r.e, r.c, r.d) == (1, 2, 9, 4)),
    "a default that was changed": (lambda: list(with_default(1)), lambda r: r == [5]),
    "annotations": (lambda: typing.get_type_hints(annotated)["x"] is Frozen, lambda r: r is True),
    "any arguments": (lambda: variadic(1, 2, key=3, other=4), lambda r: r == ((1, 2), 3, {"other": 4})),
    "a dict with __missing__": (lambda: Indexed(a=1), lambda r: type(r) is Indexed and r["z"] == "z"),
    "a property of a metaclass": (lambda: (OfMeta2.name2, len(OfMeta2)), lambda r: r == ("OfMeta2", 7)),
    "a mixin": (lambda: Mixed(1).who(), lambda r: r == "mixin"),
    "__class_getitem__": (lambda: WithClassGetitem[3], lambda r: r == (WithClassGetitem, 3)),
    "a slot for weak references": (lambda: weakref.ref(Weak()) is not None, lambda r: r is True),
    "__class__": (lambda: Cells().me() is Cells, lambda r: r is True),
    "a subclass of tuple": (lambda: Frozen2(1, 2), lambda r: type(r) is Frozen2 and r.first == 1),
    "a subclass of int": (lambda: Number(3), lambda r: type(r) is Number and r == 3 and r.unit == "m"),
    "a chain of exceptions": (lambda: chained(), lambda r: r == "ValueError"),
    "an assignment in a comprehension": (lambda: walrus([1, 2, 3]), lambda r: r == [4, 6]),
    "match": (lambda: (matched(Frozen(3)), matched([1, 2])), lambda r: r == (3, [2])),
    "classes as keys": (lambda: (type_table[int], type_table[Frozen]), lambda r: r == ("int", "frozen")),
    "nested values": (lambda: nested, lambda r: r == nested and r["a"][1]["b"] is Planet.MARS),
    "a sentinel as a default": (lambda: is_sentinel(), lambda r: r is True),
    "a logger": (lambda: logger.name, lambda r: r == "mine"),
    "an exit stack": (lambda: stack.__class__.__name__, lambda r: r == "ExitStack"),
    "a name under its module": (lambda: base.__module__, lambda r: r in ("__main__", "__mp_main__")),
}

def _raises(kind, call):
    try: call()
    except kind: return True
    return False
def _set(thing, name, value): setattr(thing, name, value); return thing
def _entered(context):
    with context as value: return value

def tried(fn):
    class P(Producer):
        @staticmethod
        def map_fn(records): return [[fn()] for _ in records]
        @staticmethod
        def reduce_fn(lists): return [value for values in lists for value in values]
    return P(engine=sys.argv[1]).map(DataSourceFactory([1]))[0]

def run():
    for name, (fn, check) in FORMS.items():
        try:
            found = tried(fn)
            print(name, "|", "right" if check(found) else f"WRONG {found!r:.200}")
        except Exception as error:
            print(name, "|", type(error).__name__, str(error).replace(chr(10), " ")[:300])
"""  # noqa: E501 - as users write it

ENDS = {
    "a script with a guard": "\nif __name__ == '__main__':\n    run()\n",
    "a script without": "\nrun()\n",
}


@pytest.mark.parametrize("engine", ["serial", "processes://1"])
@pytest.mark.parametrize("end", ENDS)
def test_forms_of_code_mean_the_same_in_workers(tmp_path, end, engine):
    (tmp_path / "forms.py").write_text(DEFINITIONS + ENDS[end])
    done = subprocess.run(
        [sys.executable, "forms.py", engine], cwd=tmp_path, capture_output=True, text=True, timeout=3 * PATIENCE
    )
    wrong = [line for line in done.stdout.splitlines() if not line.endswith("| right")]
    assert not wrong, "\n".join([*wrong, done.stderr[-2_000:]])
    assert len(done.stdout.splitlines()) > 60, done.stderr
