"""joblib, scikit-learn, scipy and emcee over Pymar: the same results as without it."""

import os
from multiprocessing import TimeoutError as TimeoutOfJoblib

import numpy
import pytest
from conftest import is_running, needed, wait_until

import pymar
from pymar.amqp.keys import new_key
from pymar.exceptions import PartFailed, PartLost, UsageError

joblib = needed("joblib")
needed("sklearn")
import joblib_jobs as jobs  # noqa: E402 - only if they are there
from joblib import Parallel, delayed, parallel_config  # noqa: E402

import pymar.joblib  # noqa: E402

ENGINES = ["serial", "processes://2"]


@pytest.fixture(autouse=True)
def _registered():
    pymar.joblib.register()


@pytest.fixture
def on_two():
    with parallel_config("pymar", engine="processes://2"):
        yield


# joblib


@pytest.mark.parametrize("engine", [*ENGINES, "processes://1"])
def test_results_are_those_of_joblib(engine):
    with parallel_config("pymar", engine=engine):
        found = Parallel()(delayed(jobs.squared)(number) for number in range(2_000))
    assert found == [number**2 for number in range(2_000)]


def test_one_slot_elsewhere_is_used_too():
    with parallel_config("pymar", engine="processes://1"):
        pids = set(Parallel()(delayed(jobs.slot)() for _ in range(5)))
    assert len(pids) == 1
    assert os.getpid() not in pids


def test_the_number_of_jobs_is_that_of_the_slots(on_two):
    assert joblib.effective_n_jobs() == joblib.effective_n_jobs(-1) == joblib.effective_n_jobs(8) == 2
    assert joblib.effective_n_jobs(1) == joblib.effective_n_jobs(-2) == 1
    with pytest.raises(ValueError, match="n_jobs == 0"):
        joblib.effective_n_jobs(0)


def test_no_more_jobs_run_at_once_than_asked_for(tmp_path):
    calls = (delayed(jobs.held)(str(tmp_path / f"began-{number}"), str(tmp_path / "end")) for number in range(4))
    with parallel_config("pymar", engine="processes://3"):
        found = Parallel(n_jobs=2, return_as="generator")(calls)
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2, "two to run")
        assert len(list(tmp_path.iterdir())) == 2
        (tmp_path / "end").touch()
        assert list(found) == [None] * 4


def test_short_calls_go_together(on_two):
    batches = []

    class Watched(pymar.joblib.PymarBackend):
        def submit(self, func, callback=None):
            batches.append(len(func))
            return super().submit(func, callback)

    with parallel_config(Watched("processes://2")):
        Parallel()(delayed(jobs.squared)(number) for number in range(5_000))
    assert max(batches) > 10


def test_lambdas_and_closures_can_be_called(on_two):
    shift = 7
    assert Parallel()(delayed(lambda number: number + shift)(number) for number in range(3)) == [7, 8, 9]


@pytest.mark.parametrize("how", ["generator", "generator_unordered"])
def test_results_can_be_a_generator(on_two, how):
    found = Parallel(return_as=how)(delayed(jobs.squared)(number) for number in range(50))
    assert sorted(found) == [number**2 for number in range(50)]


def test_a_backend_is_used_again_and_again(on_two):
    with Parallel() as calls:
        for _ in range(3):
            assert calls(delayed(jobs.squared)(number) for number in range(5)) == [0, 1, 4, 9, 16]
    assert Parallel()(delayed(jobs.squared)(number) for number in range(3)) == [0, 1, 4]


def test_what_is_called_within_a_call_runs_in_its_process(on_two):
    expected = [number**2 for number in range(5)]
    assert Parallel()(delayed(jobs.nested)(5) for _ in range(3)) == [(expected, "SequentialBackend", True)] * 3


@pytest.mark.parametrize("engine", ENGINES)
def test_an_error_is_the_original(engine):
    with parallel_config("pymar", engine=engine), pytest.raises(ZeroDivisionError) as raised:
        Parallel()(delayed(jobs.inverse)(number) for number in range(-3, 3))
    if engine != "serial":  # of one slot in this process, joblib itself computes
        assert isinstance(raised.value.__cause__, PartFailed)


def test_an_error_stops_what_runs_and_leaves_the_backend_usable(on_two, tmp_path):
    def raised_once_begun(began):
        wait_until(began.exists, "the other call to begin")
        raise ValueError("of this call")

    began = tmp_path / "began"
    with pytest.raises(ValueError, match="of this call"):
        Parallel()([delayed(jobs.held)(str(began), str(tmp_path / "never")), delayed(raised_once_begun)(began)])
    pid = int(began.read_text())
    wait_until(lambda: not is_running(pid), "its process to end")
    assert Parallel()(delayed(jobs.squared)(number) for number in range(3)) == [0, 1, 4]


def test_a_timeout_stops_what_runs(on_two, tmp_path):
    began = tmp_path / "began"
    calls = [delayed(jobs.held)(str(began), str(tmp_path / "never")), delayed(jobs.squared)(1)]
    with pytest.raises(TimeoutOfJoblib):
        Parallel(timeout=0.5)(calls)
    if began.exists():
        pid = int(began.read_text() or 0)
        wait_until(lambda: not is_running(pid), "its process to end")


def test_a_call_whose_processes_die_fails(on_two):
    with pytest.raises(PartLost):
        Parallel()(delayed(os._exit)(3) for _ in range(2))
    assert Parallel()(delayed(jobs.squared)(number) for number in range(3)) == [0, 1, 4]


def test_options_are_those_of_the_executor():
    with (
        parallel_config("pymar", engine="processes://2", attempts=1),
        pytest.raises(PartLost, match="lost 1 times"),
    ):
        Parallel()(delayed(os._exit)(3) for _ in range(2))
    with pytest.raises(UsageError, match="processess"):
        parallel_config("pymar", engine="processess")


def test_without_joblib_it_says_what_to_install(script):
    done = script("""
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "joblib":
            raise ModuleNotFoundError("hidden", name="joblib")

sys.meta_path.insert(0, Hidden())
import pymar.joblib
try:
    pymar.joblib.register()
except pymar.exceptions.MissingExtra as error:
    print(error)
""")
    assert "pip install 'pymar[joblib]'" in done.stdout


# scikit-learn


@pytest.fixture(scope="module", params=["searched", "grown"])
def fitted(request):
    """A fit, and what it gives without Pymar."""
    fit = getattr(jobs, request.param)
    with parallel_config(n_jobs=1):
        return fit, fit()


def test_scikit_learn_finds_the_same_with_loky(fitted):
    fit, expected = fitted
    with parallel_config("loky", n_jobs=2):
        assert fit() == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_scikit_learn_finds_the_same(fitted, engine):
    fit, expected = fitted
    with parallel_config("pymar", engine=engine):
        assert fit() == expected


def test_scikit_learn_finds_the_same_over_amqp(fitted, broker, agents, monkeypatch):
    monkeypatch.setenv("PYMAR_KEY", new_key())
    agents.start("--pool", "scikit-learn", "-w", "2")
    fit, expected = fitted
    with parallel_config("pymar", engine=f"{broker.url}?pool=scikit-learn"):
        assert fit() == expected


# Others that take a pool, or its map


def bowl(point):
    return float(((point - 0.5) ** 2).sum())


def hill(point):
    return -0.5 * float((point**2).sum())


@pytest.mark.parametrize("engine", ENGINES)
def test_scipy_finds_the_same_minimum(engine):
    optimize = needed("scipy.optimize")
    settings = {"bounds": [(-2, 2)] * 3, "rng": 7, "maxiter": 5, "popsize": 5, "updating": "deferred"}
    expected = optimize.differential_evolution(bowl, **settings)
    with pymar.Executor(engine) as pool:
        found = optimize.differential_evolution(bowl, workers=pool.map, **settings)
    assert found.x.tobytes() == expected.x.tobytes()
    assert found.fun == expected.fun


@pytest.mark.parametrize("engine", ENGINES)
def test_emcee_draws_the_same_samples(engine):
    emcee = needed("emcee")

    def chain(pool):
        state = numpy.random.RandomState(7)
        sampler = emcee.EnsembleSampler(8, 2, hill, pool=pool)
        sampler.random_state = state.get_state()
        sampler.run_mcmc(state.normal(size=(8, 2)), 20)
        return sampler.get_chain().tobytes()

    with pymar.Executor(engine) as pool:
        assert chain(pool) == chain(None)
