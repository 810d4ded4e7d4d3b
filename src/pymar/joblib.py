"""joblib on the engines of Pymar: with it, what is written for joblib (scikit-learn, say) runs on all of them.

import joblib, pymar.joblib

pymar.joblib.register()
with joblib.parallel_config("pymar", engine="amqp://host?pool=NAME"):
    search.fit(features, target)
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING, Any

from pymar.calls.executor import Executor
from pymar.exceptions import MissingExtra

if TYPE_CHECKING:
    from pymar.engines.base import Engine

    class _Backend:
        """What is used here of joblib, which has no types."""

        parallel: Any
        nesting_level: int | None

        def __init__(self, **settings: Any) -> None: ...
        def reset_batch_stats(self) -> None: ...

else:
    try:
        from joblib.parallel import AutoBatchingMixin, ParallelBackendBase
    except ModuleNotFoundError as error:
        if error.name != "joblib":
            raise
        _Backend = object
    else:

        class _Backend(AutoBatchingMixin, ParallelBackendBase):
            """A backend that puts short calls together, as joblib's own do."""


__all__ = ["PymarBackend", "register"]


def register(make_default: bool = False) -> None:
    """Give joblib the backend "pymar": `with joblib.parallel_config("pymar", engine=...)`.

    What joblib computes is the same as with its own backends. Within a worker process, joblib computes one call after
    the other. Options of the backend are those of PymarBackend.

    Args:
        make_default: True if joblib is to use it where nothing else is said.

    Raises:
        MissingExtra: joblib is not installed.
    """
    if _Backend is object:
        raise MissingExtra("pymar.joblib needs: pip install 'pymar[joblib]'")
    from importlib import import_module

    parallel: Any = import_module("joblib.parallel")
    parallel.register_parallel_backend("pymar", PymarBackend, make_default=make_default)


class PymarBackend(_Backend):
    """The backend "pymar" of joblib, which makes one from the options of `parallel_config`. One `with` block each.

    Args:
        engine, setup, part_timeout, memory_limit, attempts, retries, seed: as of `pymar.Executor`.
        settings: those of joblib.
    """

    default_n_jobs: int = -1
    supports_retrieve_callback: bool = True
    supports_inner_max_num_threads: bool = False

    def __init__(
        self,
        engine: Engine | str | None = None,
        *,
        setup: Callable[[], object] | None = None,
        part_timeout: float | None = None,
        memory_limit: int | None = None,
        attempts: int = 4,
        retries: int = 0,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        #: What joblib computes with; made at once, so that a wrong option is an error of `parallel_config`.
        self.executor: Executor = Executor(
            engine,
            setup=setup,
            part_timeout=part_timeout,
            memory_limit=memory_limit,
            attempts=attempts,
            retries=retries,
            seed=seed,
        )
        self._futures: set[concurrent.futures.Future[Any]] = set()

    @cached_property
    def _slots(self) -> int:
        """How many calls run at once. One on another process counts as two: joblib would compute here otherwise."""
        slots = self.executor.slots()
        return slots if self.executor.is_here else max(2, slots)

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many calls can run at once: the slots of the engine, or `n_jobs` if that is less.

        On other hosts it is `n_jobs`, if that is given: more workers may come.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs == 1:
            return 1
        if n_jobs is None or n_jobs < 0:
            return max(self._slots + 1 + (-1 if n_jobs is None else n_jobs), 1)
        return min(n_jobs, self._slots) if self.executor.is_near else n_jobs

    def configure(self, n_jobs: int | None = 1, parallel: Any = None, **_: Any) -> int:
        """Prepare for a call of Parallel; return how many of its calls can run at once."""
        self.parallel = parallel
        self.executor._limit(n_jobs if n_jobs is not None and n_jobs > 0 else inf)
        return self.effective_n_jobs(n_jobs)

    def submit(
        self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None
    ) -> concurrent.futures.Future[Any]:
        """Return the future of a batch of calls; `callback` is called with it once it has ended."""
        future = self.executor.submit(func)
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    #: Its name in joblib before 1.5.
    apply_async: Callable[..., concurrent.futures.Future[Any]] = submit

    def retrieve_result_callback(self, out: concurrent.futures.Future[Any]) -> Any:
        """Return the results of a batch that has ended, or raise what it raised."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stop all that runs, and the rest: one call has failed, or joblib's time is over."""
        for future in list(self._futures):
            future.cancel()

    def terminate(self) -> None:
        """End a call of Parallel. The executor stays for the next."""
        self.abort_everything()
        self.reset_batch_stats()

    def get_nested_backend(self) -> tuple[Any, int]:
        """Return what joblib uses within a call: the workers are busy already, so one call after the other."""
        from importlib import import_module

        parallel: Any = import_module("joblib.parallel")
        return parallel.SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), 1
