"""What the code of a job reaches: functions, classes and values, followed from the job's classes, and described.

    UserCode(producer, source) -> functions, classes, the variables that they read, and a text for each of those

The text of equal things is the same in every process and on every host: it contains no memory address, no order of a
set, and no identity. By texts that differ a checkpoint detects another job, and a worker another version of a module.
"""

from __future__ import annotations

import copyreg
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from opcode import hasname, opmap
from operator import is_
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, NamedTuple
from weakref import WeakSet

from pymar.parts import JobSpec
from pymar.serialization.closure import CLOSURE, DEFAULT, held_by
from pymar.serialization.redaction import is_secret, redacted
from pymar.serialization.settings import collected, is_plain, is_setting
from pymar.serialization.shipped import MAIN, dynamic_modules

#: An entry of a job's description whose change causes only a warning: equal dicts may differ in their order.
ORDER = "the order of dicts"
#: Another such entry: a generator without a seed has another state in each run.
STATES = "the state of generators of random numbers"
#: Prefix of entries of modules that may not be imported yet: compared only if both processes have them.
IF_LOADED = "where it is loaded, "
#: Stands for the text of what cannot be described: it is not compared, and a worker uses its own.
UNKNOWN = "?"
#: Characters of the longest text that is kept whole; longer ones are cut, with a hash.
_LONGEST = 200
#: Length from which on containers of atoms are hashed as a whole, if possible.
_LONG = 1_000

#: Folders of the standard library; and names of folders of installed packages.
_LIBRARIES = tuple({os.path.dirname(os.path.realpath(os.__file__)) + os.sep, os.path.dirname(os.__file__) + os.sep})
_PACKAGES = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
_ATOMS = frozenset({type(None), bool, int, float, complex, bytes, range, type(...), type(NotImplemented)})
#: Types that are hashed as a whole where there are many; those that can be sorted; and containers of them.
_MARSHALLED = frozenset({int, float, str, bytes, bool, type(None)})
_SORTABLE = frozenset({int, str, bytes})
_ROWS = frozenset({list, tuple})
#: Variables that every module has.
_OF_MODULES = frozenset(
    f"__{name}__"
    for name in ("name", "file", "doc", "spec", "loader", "package", "path", "builtins", "cached", "annotations")
)
#: Attributes that every class has, or that are derived from others.
_OF_CLASSES = frozenset(
    {f"__{name}__" for name in ("module", "qualname", "doc", "dict", "weakref", "firstlineno", "slotnames")}
    | {f"__{name}__" for name in ("static_attributes", "abstractmethods", "parameters", "annotations_cache")}
    | {"_abc_impl", "_member_map_", "_value2member_map_", "_unhashable_values_", "_hashable_values_"}
    | {"_unhashable_values_map_"}
)
#: Generators of random numbers, and functions that return their state, which is compared only between runs.
_GENERATORS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("random", "Random"): lambda value: value.getstate(),
    ("numpy.random._generator", "Generator"): lambda value: value.bit_generator.state,
    ("numpy.random.mtrand", "RandomState"): lambda value: value.get_state(),
}
#: Types without data, or without data that a text describes: locks, caches, generators.
_WITHOUT_DATA = frozenset(
    {("_thread", name) for name in ("lock", "RLock", "_local")}
    | {("weakref", name) for name in ("WeakKeyDictionary", "WeakValueDictionary")}
    | {("_weakrefset", "WeakSet"), ("random", "SystemRandom"), *_GENERATORS}
)
_DESCRIPTORS = (GetSetDescriptorType, MemberDescriptorType, MethodDescriptorType, WrapperDescriptorType)
#: Modules of the loaders of Python itself.
_LOADERS = frozenset({"importlib.machinery", "_frozen_importlib", "_frozen_importlib_external", "zipimport"})
#: Types whose values never change.
_CONSTANT = frozenset({("re", "Pattern"), ("logging", "Logger"), ("_thread", "lock"), ("_thread", "RLock")})
#: Attributes that are made with a class, and not changed later.
_SETTLED = frozenset({"__annotations__", "__dataclass_fields__", "__dataclass_params__", "__slots__", "__match_args__"})
_ABSENT = object()
#: Functions that look up names which are given as texts.
_LOOKS_UP = frozenset({"globals", "vars", "eval", "exec", "getattr", "__import__", "import_module", "locals"})


class Indescribable(Exception):
    """Raised for a value that no text distinguishes from others of its type; the message names the type."""


class Place(NamedTuple):
    """Where a value is stored."""

    module: str
    within: str
    """The label of the class or function in the module; "" for a global variable."""
    name: str
    of_function: bool = False


class Reads(NamedTuple):
    """The names that the code of a function, and code nested in it, reads."""

    names: frozenset[str]
    """Global variables."""
    attributes: frozenset[str]
    modules: frozenset[str]
    """Modules that the code imports when it runs; relative ones without their package."""
    imported: frozenset[str]
    """Names that are imported from those modules."""


def _read_operations() -> dict[int, tuple[str, int]]:
    """Return, by operation: how it uses its name, and how many bits of its argument are not the index of the name."""
    shifts = {"LOAD_GLOBAL": 1, "LOAD_SUPER_ATTR": 2, "LOAD_ATTR": 1 if sys.version_info >= (3, 12) else 0}
    uses = {"LOAD_GLOBAL": "name", "LOAD_NAME": "name", "LOAD_FROM_DICT_OR_GLOBALS": "name", "IMPORT_NAME": "module"}
    uses["IMPORT_FROM"] = "imported"
    uses |= dict.fromkeys(("STORE_GLOBAL", "STORE_NAME", "DELETE_GLOBAL", "DELETE_NAME", "STORE_ATTR"), "")
    by_number = {number: name for name, number in opmap.items()}
    names = [by_number[number] for number in hasname if number in by_number]
    return {opmap[name]: (uses.get(name, "attribute"), shifts.get(name, 0)) for name in names}


_OPERATIONS = _read_operations()
_EXTENDED = opmap["EXTENDED_ARG"]
# By the id of code objects, which the entry keeps alive.
_reads: dict[int, tuple[CodeType, Reads]] = {}
_hashes: dict[int, tuple[CodeType, str]] = {}
#: Number of code objects that are cached: more than most programs have.
_REMEMBERED = 50_000


def reads_of(code: CodeType) -> Reads:
    """Return what some code reads; cached, since code objects never change."""
    found = _reads.get(id(code))
    if found is not None:
        return found[1]
    uses: dict[str, set[str]] = {kind: set() for kind in ("name", "attribute", "module", "imported", "")}
    for one in _all_code(code):
        _collect(one, uses)
    uses["attribute"] |= uses["imported"]
    if (uses["name"] | uses["attribute"]) & _LOOKS_UP:
        words = set(_words(code))
        uses["name"] |= words
        uses["attribute"] |= words
        uses["module"] |= words
    reads = Reads(*(frozenset(uses[kind]) for kind in ("name", "attribute", "module", "imported")))
    if len(_reads) > _REMEMBERED:
        _reads.clear()
    _reads[id(code)] = code, reads
    return reads


def _all_code(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _all_code(constant)


def _collect(code: CodeType, uses: dict[str, set[str]]) -> None:
    names, extended = code.co_names, 0
    instructions = iter(code.co_code)
    for operation, argument in zip(instructions, instructions, strict=False):
        argument |= extended
        extended = argument << 8 if operation == _EXTENDED else 0
        if (use := _OPERATIONS.get(operation)) is not None:
            uses[use[0]].add(names[argument >> use[1]])


def _words(code: CodeType) -> Iterator[str]:
    """Yield names in constant texts, which `globals()["x"]` or `getattr(module, "x")` may look up."""
    import re

    for one in _all_code(code):
        for constant in one.co_consts:
            if type(constant) is str and len(constant) < 1_000:
                yield from re.findall(r"[A-Za-z_][\w.]*", constant)


class UserCode:
    """What some classes reach: the user's functions and classes, and the variables that those read.

    Libraries (the standard library, site-packages) are not followed, since jobs do not send them; values that the user
    has set in them are. What code reaches by a computed name is not found.
    """

    def __init__(self, *classes: type, home: str = "") -> None:
        """`home` is a module without a name in the texts, as a script is: it has another name in other processes."""
        self._unnamed = {*MAIN, home}
        #: Functions and classes that were reached; functions by their labels.
        self.functions: dict[str, FunctionType] = {}
        self.classes: dict[type, None] = {}
        #: Each global variable that they read, except modules: (module, name) and its value.
        self.variables: dict[tuple[str, str], Any] = {}
        #: Each attribute that is not a function of the class body: (class, name) and its value.
        self.attributes: dict[tuple[type, str], Any] = {}
        #: What functions hold besides their code: (label of the function, name), and (entry, value).
        self.held_by_functions: dict[tuple[str, str], tuple[str, Any]] = {}
        #: The user's modules that were reached, and their files; some are imported only when the code runs.
        self.modules: dict[str, str] = {}
        #: The text of each entry; and the module of each entry that is in an importable one.
        self.texts: dict[str, str] = {}
        self.of_modules: dict[str, str] = {}
        #: False if something was reached that texts do not describe, such as the state of a generator, or a cache.
        self.is_whole: bool = True
        #: Variables of the script that are looked up by name at run time: as its attributes, or by a text.
        self.looked_up: dict[str, Any] = {}
        #: The entries that cannot be described, and why.
        self.unknown: dict[str, str] = {}
        self._labels: dict[int, str] = {}
        self._taken: set[str] = set()
        self._open: set[int] = set()
        self._known: dict[int, str] = {}
        self._alive: list[Any] = []
        self._orders: set[str] = set()
        self._generators: list[tuple[Any, Callable[[Any], Any]]] = []
        self._read: set[tuple[str, str]] = set()
        #: Folders of the modules, each with the first module that was found there.
        self._folders: dict[str, str] = {}
        #: Functions and classes that are to be followed; a queue, since chains of them may exceed the recursion limit.
        self._met: deque[tuple[Any, str]] = deque()
        #: Loaded modules that code imports when it runs: followed last, since they are not loaded before the first run.
        self._imported: deque[tuple[Reads, ModuleType]] = deque()
        #: Entries that were reached only by those.
        self.of_imported: set[str] = set()
        self._is_late = False
        self._asks_for_subclasses = False
        self._readers: dict[tuple[str, str], str] = {}
        self._users: dict[str, bool] = {}
        #: False if something was reached that can change in place; and the names that were looked up, with where.
        self._is_fixed = True
        self._looks: list[tuple[dict[str, Any], frozenset[str]]] = []
        self._seen: list[tuple[Any, ...]] = []
        for cls in classes:
            self.text(cls)
        self.follow()
        if self._is_fixed:
            self._seen = list(self._look())

    def still_holds(self) -> bool:
        """True if certainly nothing has changed: nothing reached can change in place, and nothing was replaced."""
        return self._is_fixed and all(
            len(now) == len(was) and all(map(is_, now, was)) for now, was in zip(self._look(), self._seen, strict=True)
        )

    def _look(self) -> Iterator[tuple[Any, ...]]:
        """Yield the values of names, the parts of functions and the attributes of classes as they are now."""
        for variables, names in self._looks:
            yield tuple(variables.get(name, _ABSENT) for name in names)
        for function in self.functions.values():
            defaults, named = function.__defaults__ or (), function.__kwdefaults__ or {}
            cells = (_content(cell) for cell in function.__closure__ or ())
            yield function.__code__, *defaults, *named.values(), *cells, *vars(function).values()
        for cls in self.classes:
            yield *vars(cls).values(), *cls.__mro__

    def follow(self) -> None:
        """Follow the functions, classes and modules in the queues until they are empty."""
        while self._met or self._imported or self._meet_subclasses():
            if not self._met and self._imported:
                self._is_late = True
                self._read_module(*self._imported.popleft())
            if not self._met:
                continue
            thing, label = self._met.popleft()
            if isinstance(thing, FunctionType):
                self._follow(thing, label)
            else:
                self._follow_class(thing, label)
        self._is_late = False

    def _meet_subclasses(self) -> bool:
        """True if there are further subclasses to follow; they count only if some code reads `__subclasses__`."""
        if not self._asks_for_subclasses:
            return False
        for cls in list(self.classes):
            found: list[type] = type.__subclasses__(cls)
            for derived in found:
                if id(derived) not in self._labels and is_users(derived.__module__):
                    self._text(derived)
                    if derived.__module__ in MAIN:
                        self.looked_up.setdefault(derived.__qualname__, derived)
        return bool(self._met)

    def settings(self, cls: type, root: type) -> dict[type | str, dict[str, Any]]:
        """Return the values that are sent with every job, as they are now: by class, or by module for global variables.

        They are the public plain attributes of a class, of its bases below `root`, and of the user's classes; and the
        plain global variables of importable modules. Those of the script are sent with its functions.
        """
        found: dict[type | str, dict[str, Any]] = {}
        for owner in dict.fromkeys((*cls.__mro__, *self.classes)):
            if owner not in root.__mro__:
                found[owner] = collected(owner)
        for (module, name), value in self.variables.items():
            if module not in MAIN and module in sys.modules and is_plain(value):
                found.setdefault(module, {})[name] = value
        return {place: values for place, values in found.items() if values}

    def certain_texts(self) -> dict[str, str]:
        """Return the fixed texts without `of_imported`, which depend on what is imported; texts of modules remain."""
        return {name: text for name, text in self.fixed_texts().items() if name not in self.of_imported}

    def fixed_texts(self, variables_travel: bool = False) -> dict[str, str]:
        """Return the texts of what is not sent as a setting, and so has to be equal where the job is computed."""
        travel = {f"{self.label(cls)}.{name}" for cls, name in self.attributes if is_setting(cls, name)}
        if variables_travel:
            found = self.variables.items()
            travel |= {self.entry(*place) for place, value in found if place[0] not in MAIN and is_plain(value)}
        texts = {name: text for name, text in self.texts.items() if name not in travel}
        return {**texts, **dict.fromkeys(texts.keys() & self.unknown.keys(), UNKNOWN)}

    def replaceable(self) -> Iterator[tuple[str, Place, Any]]:
        """Yield what a fresh import may not give: its entry, its place, its value.

        Without settings, and without functions and classes that a fresh import makes.
        """
        for (module, name), value in self.variables.items():
            if not (module not in MAIN and is_plain(value)) and not is_natural(value):
                yield self.entry(module, name), Place(module, "", name), value
        for (cls, name), value in self.attributes.items():
            # A class that a fresh import does not make is sent by value, with its attributes.
            if is_natural(cls) and not is_setting(cls, name) and not is_natural(value) and not _is_enum(cls):
                yield f"{self.label(cls)}.{name}", Place(cls.__module__, self.label(cls), name), value
        for (label, name), (entry, value) in self.held_by_functions.items():
            if not is_natural(value):
                yield entry, Place(self.functions[label].__module__, label, name, True), value

    def held(self) -> Iterator[tuple[str, Any, str]]:
        """Yield all that the code holds or reads: a name for messages, the value, and the function that reads it."""
        for (label, name), (_, value) in self.held_by_functions.items():
            yield f"{name} of {label}" if " " in name else f"the attribute {label}.{name}", value, ""
        for (module, name), value in self.variables.items():
            yield f"the variable {self.entry(module, name)}", value, self._readers.get((module, name), "")
        for (cls, name), value in self.attributes.items():
            yield f"the attribute {self.label(cls)}.{name}", value, ""

    @property
    def order(self) -> str:
        """Return a hash of the order of the dicts among the values: equal dicts may differ in it."""
        return digest(" ".join(sorted(self._orders)))

    @property
    def reads_generators(self) -> bool:
        """True if a generator of random numbers is among the values: each process begins with the same state of it."""
        return bool(self._generators)

    @property
    def states(self) -> str:
        """Return a hash of the states of the generators of random numbers among the values."""
        return digest(" ".join(sorted(UserCode().text(state(value)) for value, state in self._generators)))

    def text(self, value: Any, name: str = "") -> str:
        """Return the description of a value; if `name` is that of a secret, only a hash.

        Raises:
            Indescribable: no text distinguishes it from others of its type.
        """
        if is_secret(name):
            return f"*** ({digest(self._text(value))})"
        try:
            return self._text(value)
        except RecursionError:
            raise Indescribable(f"a {self._name_of(type(value))} that is nested too deeply") from None

    def told(self, value: Any, name: str = "") -> str:
        """Return the description of a value; for one that has none, a text that says why."""
        try:
            return self.text(value, name)
        except Indescribable as error:
            return f"? ({error})"

    def _text(self, value: Any) -> str:
        kind = type(value)
        if kind is str:
            value = self._nowhere(value)
            return _shortened(redacted(repr(value)), repr(value))
        if kind in _ATOMS:
            return _shortened(repr(value))
        key = id(value)
        if (known := self._known.get(key)) is not None:
            return known
        if key in self._open:
            return "<itself>"
        self._open.add(key)
        try:
            text = _shortened(self._compound(value, kind))
        finally:
            self._open.discard(key)
        self._alive.append(value)  # or its id would be used again for another object
        if "<itself>" not in text:
            self._known[key] = text
        return text

    def _nowhere(self, text: str) -> str:
        """Return a text without what differs between processes: folders of modules, the name of the script."""
        if text in self._unnamed and text:
            return "__main__"
        if text[:1] == os.sep:
            for folder, module in self._folders.items():
                if text.startswith(folder) and text[len(folder) : len(folder) + 1] in ("", os.sep):
                    return f"<folder{module}>{text[len(folder) :]}"
        return text

    def _compound(self, value: Any, kind: type) -> str:
        if kind in (list, set, dict):
            self._is_fixed = False
        if (
            kind in (list, tuple, set, frozenset, dict)
            and len(value) >= _LONG
            and (packed := self._packed(value, kind))
        ):
            return f"{kind.__name__}[{len(value)}] {packed}"
        if kind in (list, tuple):
            return f"{kind.__name__}({', '.join(map(self._text, value))})"
        if kind in (set, frozenset):
            return f"{{{', '.join(sorted(map(self._text, list(value))))}}}"
        if kind is dict:
            return f"{{{self._items(list(value.items()))}}}"
        if kind is FunctionType:
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, ModuleType):
            self._whole_module(value.__name__)
            return f"module {value.__name__}"
        return self._described_by_kind(value, kind)

    def _packed(self, value: Any, kind: type) -> str:
        """Return one hash for many atoms, or rows of them; "" if there is something else among them."""
        value = value.copy() if kind in (dict, set, list) else value  # other threads may change it
        if kind is dict:
            kinds = set(map(type, value))
            if len(kinds) != 1 or not kinds <= _SORTABLE:
                return ""
            keys = sorted(value)
            packed = _marshalled([keys, [value[key] for key in keys]])
            if packed:
                self._note_order(_marshalled([list(value), []]))
            return packed
        if kind in (set, frozenset):
            kinds = set(map(type, value))
            return _marshalled([sorted(value), []]) if len(kinds) == 1 and kinds <= _SORTABLE else ""
        return _marshalled([value, []])

    def _items(self, pairs: Iterable[tuple[Any, Any]]) -> str:
        texts = [(self._text(key), self.text(item, key if type(key) is str else "")) for key, item in pairs]
        if len(texts) > 1:
            self._note_order(",".join(key for key, _ in texts))
        return ", ".join(f"{key}: {item}" for key, item in sorted(texts))

    def _note_order(self, text: str) -> None:
        if not self._is_late:
            self._orders.add(digest(text))

    def _described_by_kind(self, value: Any, kind: type) -> str:
        where = kind.__module__, kind.__qualname__
        inner = _within(value, kind)
        if inner is not None:
            return f"{kind.__name__} of {self._text(inner)}"
        if isinstance(value, BuiltinFunctionType):
            owner = value.__self__
            if owner is None or isinstance(owner, ModuleType):
                return f"function {value.__module__}.{value.__qualname__}"
            return f"method {value.__name__} of {self._text(owner)}"
        if isinstance(value, _DESCRIPTORS):
            return f"{kind.__name__} {value.__name__}"
        if kind is property:
            return f"property({self._text((value.fget, value.fset, value.fdel))})"
        if not _is_constant(kind):
            self._is_fixed = False
        if kind is MappingProxyType:
            return f"proxy{{{self._items(value.items())}}}"
        if kind is CellType:
            return f"cell({self._text(value.cell_contents)})"
        if kind is CodeType:
            return f"code {hash_of(value)}"
        if where in _WITHOUT_DATA:
            self.is_whole = self.is_whole and where[0] == "_thread"
            if where in _GENERATORS and not self._is_late:
                self._generators.append((value, _GENERATORS[where]))
            return f"a {kind.__qualname__}"
        if kind.__module__ == "logging" and isinstance(value, sys.modules["logging"].Logger):
            return "a logger"
        if kind.__module__.partition(".")[0] == "pathlib" and hasattr(value, "__fspath__"):
            return f"{kind.__name__}({self._text(str(value))})"
        if value is sys.stdout or value is sys.stderr or value is sys.stdin:
            return "a standard stream"
        if where == ("weakref", "ReferenceType") or where == ("builtins", "weakref"):
            return f"reference to {self._text(value())}"
        if where in (("_contextvars", "ContextVar"), ("builtins", "ContextVar")):
            try:
                return f"context variable {value.name} = {self._text(value.get())}"
            except LookupError:
                return f"context variable {value.name}"
        if kind.__module__ == "typing" or where[1] in ("GenericAlias", "UnionType", "Union", "_GenericAlias"):
            return repr(value)
        if _is_member(value, kind):
            return f"{self._class(kind)}.{value.name}"
        if kind.__module__.partition(".")[0] == "numpy" and (text := self._array(value)):
            return text
        return self._reduced(value, kind)

    def _array(self, value: Any) -> str:
        """Return the text of a numpy array or number; "" for other classes of numpy."""
        numpy = sys.modules["numpy"]
        if not isinstance(value, numpy.ndarray | numpy.generic) or type(value).__name__ in ("MaskedArray", "recarray"):
            return ""
        if value.dtype.hasobject:
            return f"{value.dtype}{value.shape} of {self._text(value.tolist())}"
        # The order in memory is kept when it is sent; the rounding of sums depends on it.
        order = "F" if isinstance(value, numpy.ndarray) and value.flags.fnc else ""
        return f"{value.dtype}{value.shape}{order}{digest(value.tobytes())}"

    def _reduced(self, value: Any, kind: type) -> str:
        """Describe a value by what pickle would send: its class, its arguments, its state."""
        reducer = copyreg.dispatch_table.get(kind)
        try:
            reduced = reducer(value) if reducer is not None else value.__reduce_ex__(4)
            if isinstance(reduced, str):
                return f"{kind.__module__}.{reduced}"
            made_of: tuple[Any, ...] = (*reduced, None, None, None, None)
            maker, arguments, state, elements, items = made_of[:5]
            texts = [self._name_of(kind), self._text(maker), self._text(arguments), self._text(state)]
            texts += [self._text(list(elements or ()))]
            if kind.__qualname__ == "OrderedDict":
                texts.append(self._text(list(items or ())))
            else:
                texts.append(self._items(items or ()))
            if self._is_users(kind.__module__):
                self._class(kind)
        except (Indescribable, RecursionError):
            raise
        except Exception as error:  # raised by a __reduce__ of the user's, or by pickle
            raise Indescribable(f"a {self._name_of(kind)} ({type(error).__name__}: {error})") from error
        return f"{self._name_of(kind)} {digest(' '.join(texts))}"

    # Functions.

    def _function(self, function: FunctionType) -> str:
        module = function.__module__ or ""
        by_name = _by_name(module, function.__qualname__)
        if by_name is function and not self._is_users(module):
            return f"function {module}.{function.__qualname__}"
        label = self._labels.get(id(function))
        if label is None:
            label = self._labelled(function, self.entry(module, function.__qualname__))
            self.functions[label] = function
            if self._is_users(module):
                self._note_module(module)
            self._met.append((function, label))
        return f"function {label}"

    def entry(self, module: str, name: str) -> str:
        """Return the name of a variable, a function or a class of a module in the texts."""
        return name if module in self._unnamed else f"{module}.{name}"

    def entry_of(self, place: type | str, name: str) -> str:
        """Return the name of an attribute of a class, or of a variable of a module, in the texts."""
        return self.entry(place, name) if isinstance(place, str) else f"{self.label(place)}.{name}"

    def _name_of(self, kind: type) -> str:
        return kind.__qualname__ if kind.__module__ == "builtins" else self.entry(kind.__module__, kind.__qualname__)

    def _is_users(self, module: str) -> bool:
        found = self._users.get(module)
        if found is None:
            found = self._users[module] = is_users(module)
        return found

    def label(self, cls: type) -> str:
        """Return the name of a class in the texts."""
        return self._labels.get(id(cls), cls.__qualname__)

    def _labelled(self, thing: Any, label: str) -> str:
        """Give a function or a class a label that nothing else has, and return it."""
        number, given = 1, label
        while label in self._taken:
            number += 1
            label = f"{given}#{number}"
        self._taken.add(label)
        self._labels[id(thing)] = label
        self._alive.append(thing)
        return label

    def _follow(self, function: FunctionType, label: str) -> None:
        code, held = function.__code__, held_by(function)
        held.pop(f"{CLOSURE}__class__", None)
        defaults = sorted(name for name in held if name.startswith(DEFAULT))
        self._put(f"the code of {label}", digest(" ".join([hash_of(code), *defaults])), function.__module__)
        for name, value in held.items():
            kind, _, bare = name.rpartition(" ")
            entry = f"{kind} of {label}, {bare}" if kind else f"{label}.{bare}"
            self.held_by_functions[label, name] = entry, value
            self._put(entry, self._attempted(entry, value, bare), function.__module__)
        if (wrapped := vars(function).get("__wrapped__")) is not None:
            self._attempted(f"what {label} wraps", wrapped)
        if self._is_users(str(function.__globals__.get("__name__"))):
            self._read_names(reads_of(code), function.__globals__, label)

    def _attempted(self, entry: str, value: Any, name: str = "") -> str:
        """Return the text of an entry; if it cannot be described, a text that says why, and add it to `unknown`."""
        try:
            return self.text(value, name)
        except Indescribable as error:
            self.unknown[entry] = str(error)
            return f"? ({error})"

    # Names.

    def _read_names(self, reads: Reads, variables: dict[str, Any], label: str) -> None:
        if "__subclasses__" in reads.attributes:
            self._asks_for_subclasses, self._is_fixed = True, False  # more subclasses may be made
        module = str(variables.get("__name__", "?"))
        self._looks.append((variables, reads.names))
        for name in sorted(reads.names & variables.keys()):
            self._readers.setdefault((module, name), label)
            self._meet(reads, module, name, variables[name])
        if module in MAIN and reads.names & _LOOKS_UP:
            self.looked_up.update((name, variables[name]) for name in reads.names & variables.keys())
        package = str(variables.get("__package__") or module.rpartition(".")[0])
        for name in sorted(reads.modules):
            for full in (name, f"{package}.{name}" if package else "", package if not name else ""):
                if full and self._import(reads, full):
                    for imported in sorted(reads.imported):
                        self._import(reads, f"{full}.{imported}")

    def _import(self, reads: Reads, name: str) -> bool:
        """Note a module that code imports when it runs: its whole file, and what the code reads of it if it is loaded.

        True if it is a package of the user's: what is imported from it may be a module.
        """
        module = sys.modules.get(name)
        if isinstance(module, ModuleType):
            self._imported.append((reads, module))
            if self._is_users(name):
                self._whole_module(name)
            return hasattr(module, "__path__") and (self._is_users(name) or getattr(module, "__file__", None) is None)
        path = _file_of(name)
        if path:
            self._whole_module(name, path)
        return path is not None and os.path.basename(path) in ("", "__init__.py")

    def _meet(self, reads: Reads, module: str, name: str, value: Any) -> None:
        if isinstance(value, ModuleType):
            self._read_module(reads, value)
        elif name not in _OF_MODULES and (module, name) not in self.variables:
            self.variables[module, name] = value
            self._alive.append(value)
            entry = self.entry(module, name)
            self._put(entry, self._attempted(entry, value, name), module)

    def _read_module(self, reads: Reads, module: ModuleType) -> None:
        name = module.__name__
        of_user = self._is_users(name)
        if of_user:
            self._note_module(name)
        self._looks.append((vars(module), reads.attributes))
        for attribute in sorted(reads.attributes & vars(module).keys()):
            value = vars(module)[attribute]
            if (name, attribute) in self._read and isinstance(value, ModuleType):
                continue
            self._read.add((name, attribute))
            if of_user or (isinstance(value, FunctionType | type) and self._is_users(value.__module__)):
                if name in MAIN and not isinstance(value, ModuleType):
                    self.looked_up[attribute] = value
                self._meet(reads, name, attribute, value)
            elif isinstance(value, ModuleType) and value.__name__.startswith(f"{name}."):
                self._read_module(reads, value)

    def _whole_module(self, name: str, path: str = "") -> None:
        """Note a module of which anything may be read: its text is that of its file; the same for its imports."""
        path = path or (getattr(sys.modules.get(name), "__file__", None) or "" if self._is_users(name) else "")
        entry = f"the module {name}"
        self._is_fixed = False  # files change
        if not path or name in MAIN or entry in self.texts:
            return
        self.modules[name] = path
        try:
            with open(path, "rb") as file:
                source = file.read()
            self._put(entry, digest(source), name)
            code = compile(source, path, "exec", dont_inherit=True)
        except (OSError, SyntaxError, ValueError) as error:
            self.texts.setdefault(entry, f"cannot be read: {type(error).__name__}")
            return
        package = name if os.path.basename(path).startswith("__init__.") else name.rpartition(".")[0]
        reads = reads_of(code)
        for inner in sorted(reads.modules):
            for full in (inner, f"{package}.{inner}" if package and inner else package):
                for one in (full, *(f"{full}.{imported}" for imported in sorted(reads.imported))) if full else ():
                    if inner_path := _file_of(one):
                        self._whole_module(one, inner_path)

    def _put(self, entry: str, text: str, module: str | None) -> None:
        if self._is_late and entry not in self.texts:
            self.of_imported.add(entry)
        self.texts[entry] = text
        if module not in MAIN and module not in dynamic_modules:
            self.of_modules[entry] = module or ""

    def _note_module(self, name: str) -> None:
        if name not in self.modules and self._is_users(name):
            self.modules[name] = file = getattr(sys.modules.get(name), "__file__", None) or ""
            folder = os.path.dirname(os.path.abspath(file)) if file else ""
            if len(folder) > 1 and folder not in self._folders:
                self._folders[folder] = "" if name in self._unnamed else f" of {name}"

    # Classes.

    def _class(self, cls: type) -> str:
        module, name = cls.__module__, cls.__qualname__
        if not self._is_users(module) and (_is_ours(module) or _by_name(module, name) is cls):
            return f"class {module}.{name}"
        label = self._labels.get(id(cls))
        if label is None:
            label = self._labelled(cls, cls.__qualname__)
            self._note_module(cls.__module__)
            self.classes[cls] = None
            self._met.append((cls, label))
        return f"class {label}"

    def _follow_class(self, cls: type, label: str) -> None:
        bases = [self._text(base) for base in cls.__mro__[1:] if base is not object]
        metaclass = self._text(type(cls)) if type(cls) is not type else ""
        self._put(f"the class {label}", " ".join([*bases, metaclass]), cls.__module__)
        for name, member in _members(cls):
            self._member(cls, label, name, member)

    def _member(self, cls: type, label: str, name: str, member: Any) -> None:
        entry = f"{label}.{name}"
        was_fixed = self._is_fixed
        self._put(entry, self._attempted(entry, member, name), cls.__module__)
        if name in _SETTLED:
            self._is_fixed = was_fixed
        if not _is_body(cls, name, member):
            self.attributes[cls, name] = member


def _is_constant(kind: type) -> bool:
    """True if values of this type never change, among those that `_described_by_kind` describes."""
    return kind in (property, CellType, CodeType) or (kind.__module__, kind.__qualname__) in _CONSTANT or _is_enum(kind)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return _ABSENT


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of a class itself; of an enumeration also the values of its members."""
    members = getattr(cls, "__members__", None) if _is_enum(cls) else None
    if isinstance(members, Mapping):
        for name, member in members.items():
            yield name, member._value_
    for name, member in list(vars(cls).items()):
        if name == "__annotations__" and not member:
            continue  # looking at them creates them
        if name not in _OF_CLASSES and not (isinstance(members, Mapping) and name in members):
            yield name, member


def _is_body(cls: type, name: str, member: Any) -> bool:
    """True if an attribute is a function or class defined in the body of the class, or made by the language."""
    if isinstance(member, _DESCRIPTORS):
        return True
    inner = _within(member, type(member))
    inner = member.fget if type(member) is property else member if inner is None else inner
    if not isinstance(inner, FunctionType | type):
        return False
    return bool(inner.__module__ == cls.__module__ and inner.__qualname__ == f"{cls.__qualname__}.{name}")


def is_natural(value: Any) -> bool:
    """True if a function or a class is what a fresh import of its module has under its name."""
    inner = _within(value, type(value))
    if not isinstance(inner, FunctionType):
        inner = value
    if not isinstance(inner, FunctionType | type | BuiltinFunctionType):
        return False
    return _by_name(inner.__module__ or "builtins", inner.__qualname__) is value


def _within(value: Any, kind: type) -> Any:
    """Return what a wrapper of the language or of functools wraps; None if it is not a wrapper."""
    if kind in (staticmethod, classmethod):
        return value.__func__
    if kind is MethodType:
        return value.__func__, value.__self__
    if kind.__module__ == "functools" and kind.__qualname__ == "_lru_cache_wrapper":
        return value.__wrapped__
    if kind.__module__ == "functools" and kind.__qualname__ == "cached_property":
        return value.func
    return None


def _is_enum(cls: type) -> bool:
    enum = sys.modules.get("enum")
    return enum is not None and isinstance(cls, enum.EnumMeta)


def _is_member(value: Any, kind: type) -> bool:
    return _is_enum(kind) and isinstance(getattr(value, "name", None), str) and value.name in kind.__members__  # type: ignore[attr-defined]


def _by_name(module: str, qualname: str) -> Any:
    found: Any = sys.modules.get(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found


def _marshalled(lists: list[Any]) -> str:
    """Return a hash of lists of atoms, or of rows of atoms; "" if one contains something else."""
    for values in lists:
        kinds = set(map(type, values))
        if kinds & _ROWS:
            rows = (value for value in values if type(value) in _ROWS)
            kinds = kinds - _ROWS | set(map(type, chain.from_iterable(rows)))
        if not kinds <= _MARSHALLED:
            return ""
    import marshal

    return digest(marshal.dumps(lists, 2))  # version 2 does not record which objects are the same one


def _shortened(text: str, whole: str = "") -> str:
    """Return a text short enough to be shown, with a hash if something is left out."""
    if len(text) > _LONGEST:
        return f"{text[:40]}... ({digest(whole or text)})" + (" <itself>" if "<itself>" in text else "")
    return f"{text} ({digest(whole)})" if whole and whole != text else text


#: Classes that are made for one job, of functions that may hold much: what they reach is not kept behind it.
passing: WeakSet[type] = WeakSet()
#: The last results of `reached`, by its arguments.
_reached: dict[tuple[type, ...], UserCode] = {}
_MOST_REACHED = 16


def reached(*classes: type) -> UserCode:
    """Return what classes reach; the last result if certainly nothing has changed."""
    if not passing.isdisjoint(classes):
        return UserCode(*classes)
    known = _reached.pop(classes, None)
    if known is None or not known.still_holds():
        known = UserCode(*classes)
    _reached[classes] = known
    while len(_reached) > _MOST_REACHED:
        del _reached[next(iter(_reached))]
    return known


def code_of_job(spec: JobSpec, home: str = "") -> UserCode:
    """Return what the classes of a job reach: as its producer has found it, or else as found in this process."""
    if spec.code is not None and not home:
        found: UserCode = spec.code
        return found
    return UserCode(*spec.classes(), home=home)


def differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """Return the names of entries that differ. Functions, classes and modules count only if both sides reach them."""
    names = theirs.keys() & ours.keys()
    for there, here in ((theirs, ours), (ours, theirs)):
        only = there.keys() - here.keys()
        names |= {name for name in only if not name.startswith("the ") and not _is_new(name, there, here)}
    return sorted(name for name in names if _is_another(theirs.get(name), ours.get(name)))


def _is_new(name: str, there: Mapping[str, str], here: Mapping[str, str]) -> bool:
    """True if an entry belongs to a class or a function that is not reached here."""
    owner = name.rpartition(".")[0]
    kinds = (f"the class {owner}", f"the code of {owner}")
    return any(kind in there and kind not in here for kind in kinds)


def _is_another(there: str | None, here: str | None) -> bool:
    if there == UNKNOWN or (there is None and here == UNKNOWN):
        return False
    return there != here


def digest(data: str | bytes) -> str:
    """Return a hash of a text: 16 hexadecimal digits."""
    from hashlib import blake2b

    data = data.encode(errors="backslashreplace") if isinstance(data, str) else data
    return blake2b(data, digest_size=8).hexdigest()


def is_users(module: str) -> bool:
    """True if a module is the user's: not of the standard library, of an installed package, or of Pymar."""
    if module in MAIN:
        return True
    path = getattr(sys.modules.get(module), "__file__", None)
    return isinstance(path, str) and not _is_ours(module) and not _is_library(path)


def _is_ours(module: str) -> bool:
    return module == "pymar" or (module.startswith("pymar.") and module != "pymar.testing")


def _is_library(path: str) -> bool:
    return path.startswith(_LIBRARIES) or _PACKAGES[0] in path or _PACKAGES[1] in path


def _file_of(name: str) -> str | None:
    """Return the file of a user's module that is not loaded; "" for a package without one; None if there is none."""
    from importlib.machinery import PathFinder

    parts = name.split(".")
    path: Any = None
    spec = None
    for number in range(len(parts)):
        try:
            spec = PathFinder.find_spec(".".join(parts[: number + 1]), path)
        except (ImportError, ValueError, OSError):
            return None
        if spec is None:
            return None
        path = spec.submodule_search_locations
        if path is None and number + 1 < len(parts):
            return None
    origin = spec.origin if spec is not None else None
    if origin is None and path is not None:
        return ""
    return origin if origin and origin.endswith(".py") and not _is_library(origin) and not _is_ours(name) else None


def hash_of(code: CodeType) -> str:
    """Return a hash of what code does: independent of the path of its file, and of changes elsewhere in it."""
    found = _hashes.get(id(code))
    if found is None:
        if len(_hashes) > _REMEMBERED:
            _hashes.clear()
        found = _hashes[id(code)] = code, digest(repr(_described(code)))
    return found[1]


def _described(code: CodeType) -> tuple[Any, ...]:
    return (
        code.co_code,
        getattr(code, "co_exceptiontable", b""),
        code.co_flags,
        [_constant(constant) for constant in code.co_consts],
        *(code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars),
    )


def _constant(constant: Any) -> Any:
    if isinstance(constant, CodeType):
        return _described(constant)
    if isinstance(constant, frozenset):
        return sorted(map(repr, constant))  # the order of a set differs between processes
    if isinstance(constant, tuple):
        return "tuple", [_constant(one) for one in constant]
    return constant


def is_rewritten(module: ModuleType | None) -> bool:
    """True if a loader other than Python's own has made the code of a module, as pytest does for tests."""
    loader = getattr(getattr(module, "__spec__", None), "loader", None)
    return loader is not None and type(loader).__module__ not in _LOADERS


def code_in(path: str) -> Iterator[CodeType]:
    """Yield the code objects of a file as it is now; none if it is not valid Python any more."""
    try:
        with open(path, "rb") as file:
            yield from _all_code(compile(file.read(), path, "exec", dont_inherit=True))
    except (OSError, SyntaxError, ValueError):
        return
