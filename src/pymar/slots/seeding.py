"""Seed the random generators of `random` and numpy for each part: what it draws does not depend on the worker."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from pymar.serialization.settings import splitmix64

#: Modules with a generator that the whole process shares.
_GENERATORS = ("random", "numpy.random")

# How to seed the generators that are loaded; and the state of the part that is being computed, from which a generator
# that it imports is seeded.
_seeders: dict[str, Callable[[int], None]] = {}
_state = 0


def reseed(state: int) -> None:
    """Seed the loaded generators for a part; those that it imports are seeded when they load."""
    global _state
    _state = state
    for seed in _seeders.values():
        seed(splitmix64(state))


def seeding_from_now_on() -> _SeedOnImport:
    """Register the loaded generators with `reseed`, and those that will be imported. For worker processes."""
    finder = _SeedOnImport()
    sys.meta_path.insert(0, finder)
    for name in _GENERATORS:
        if name in sys.modules:
            _seeders[name] = _seeder(sys.modules[name])
    return finder


@contextmanager
def seeding_here() -> Iterator[None]:
    """As `seeding_from_now_on` within the context; then restore the generators. For parts in the user's own process."""
    global _state
    random, numpy_random = map(sys.modules.get, _GENERATORS)
    states = random and random.getstate(), numpy_random and numpy_random.get_state()
    before, state_before = dict(_seeders), _state  # those of this worker process, if a part runs a job of its own
    finder = seeding_from_now_on()
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _seeders.clear()
        _seeders.update(before)
        _state = state_before
        if random is not None:
            random.setstate(states[0])
        if numpy_random is not None:
            numpy_random.set_state(states[1])


def _seeder(module: Any) -> Callable[[int], None]:
    if module.__name__ != "random":
        return lambda seed: module.seed(seed & 0xFFFF_FFFF)
    generator = module.seed.__self__
    seed_core = super(type(generator), generator).seed  # half the time of random.seed, which also takes text

    def seed_random(seed: int) -> None:
        seed_core(seed)
        generator.gauss_next = None

    return seed_random


class _SeedOnImport:
    """A finder on `sys.meta_path`: other finders find the module of a generator, this one seeds it once it has loaded.

    Not a subclass of `importlib.abc.MetaPathFinder`: that module imports `random`.
    """

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _GENERATORS:
            return None
        place = sys.meta_path.index(self)
        sys.meta_path.remove(self)
        try:
            spec = find_spec(name)
        finally:
            sys.meta_path.insert(place, self)
        if spec is not None and spec.loader is not None:
            spec.loader = _SeedingLoader(spec.loader)  # type: ignore[assignment]
        return spec


class _SeedingLoader:
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _seeders[module.__name__] = seed = _seeder(module)
        seed(splitmix64(_state))
