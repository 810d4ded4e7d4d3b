"""Run jobs on one contender, in this process: `python contenders.py pool J1 J3`. One line of JSON a job.

A contender has two workers, hands each part to one of them, and merges results here as they come.
"""

import json
import os
import sys
import time

import jobs

WORKERS = 2


class Serial:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def each(self, function, parts):
        return map(function, parts)

    def J1(self):
        return sum(self.each(jobs.integral_part, [(low, high - low) for low, high in jobs.ranges(jobs.EVALUATIONS, 8)]))

    def J2(self, data):
        return sum(self.each(jobs.squares_part, (data[low:high] for low, high in jobs.ranges(jobs.INTS, 8))))

    def J3(self):
        return sum(self.each(jobs.trivial_part, range(jobs.TRIVIAL)))

    def J3L(self, number):
        return next(iter(self.each(jobs.trivial_part, [number])))

    def J4(self):
        return sum(self.each(jobs.trivial_part, range(4)))

    def J5(self):
        parts = [(jobs.WORDS, low, high) for low, high in jobs.ranges(os.path.getsize(jobs.WORDS), 16)]
        return jobs.merged(self.each(jobs.words_part, parts))


class Pool(Serial):
    """multiprocessing.Pool, one part at a time."""

    def __enter__(self):
        import multiprocessing

        self.pool = multiprocessing.get_context("fork").Pool(WORKERS)
        return self

    def __exit__(self, *error):
        self.pool.terminate()
        self.pool.join()

    def each(self, function, parts):
        return self.pool.imap_unordered(function, parts)

    def J3L(self, number):
        return self.pool.apply(jobs.trivial_part, (number,))


class Executor(Serial):
    """concurrent.futures.ProcessPoolExecutor."""

    def __enter__(self):
        from concurrent.futures import ProcessPoolExecutor

        self.pool = ProcessPoolExecutor(WORKERS)
        return self

    def __exit__(self, *error):
        self.pool.shutdown()

    def each(self, function, parts):
        return self.pool.map(function, parts)


class Joblib(Serial):
    """joblib with loky, automatic batches."""

    def __enter__(self):
        import joblib

        self.delayed = joblib.delayed
        self.pool = joblib.Parallel(n_jobs=WORKERS, backend="loky", return_as="generator_unordered")
        self.pool.__enter__()
        return self

    def __exit__(self, *error):
        self.pool.__exit__(*error)
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)

    def each(self, function, parts):
        return self.pool(self.delayed(function)(part) for part in parts)

    def J3L(self, number):
        return list(self.each(jobs.trivial_part, [number]))[0]  # noqa: RUF015 - it has to be exhausted


class Mpire(Serial):
    """mpire, one part at a time."""

    def __enter__(self):
        from mpire import WorkerPool

        self.pool = WorkerPool(n_jobs=WORKERS, start_method="fork", keep_alive=True)
        return self

    def __exit__(self, *error):
        self.pool.stop_and_join()

    def each(self, function, parts):
        parts = [(part,) for part in parts]
        return self.pool.imap_unordered(function, parts, iterable_len=len(parts), chunk_size=1)

    def J3L(self, number):
        return self.pool.apply(jobs.trivial_part, (number,))


class Pymar(Serial):
    """Pymar on `processes`."""

    def __enter__(self):
        self.attach(f"processes://{WORKERS}")
        return self

    def attach(self, engine):
        """Run the jobs on this engine."""
        from with_pymar import Integral, Lines, Points, Squares, Trivial, Trivials, WordCount

        from pymar.datasource import DataSourceFactory

        make = DataSourceFactory
        self.J1 = lambda: Integral(engine=engine).map(make(Points))[1]
        self.J2 = lambda data: Squares(engine=engine).map(make(data))[1]
        trivial = Trivial(engine=engine)
        self.J3 = lambda: trivial.map(make(Trivials))
        self.J3L = lambda number: trivial.map(make(Trivials, limit=1, offset=number))
        self.J4 = lambda: trivial.map(make(Trivials, limit=4))
        self.J5 = lambda: WordCount(engine=engine).map(make(Lines))

    def __exit__(self, *error):
        from pymar.engines.processes import shutdown

        shutdown()


CONTENDERS = {
    "serial": Serial,
    "pool": Pool,
    "executor": Executor,
    "joblib": Joblib,
    "mpire": Mpire,
    "pymar": Pymar,
}


def timed(call, *arguments):
    began = time.perf_counter()
    value = call(*arguments)
    return time.perf_counter() - began, value


def measure(contender, job):
    """The figure of a job, its answer checked."""
    if job == "J2":
        data = list(range(jobs.INTS))
        seconds, value = timed(contender.J2, data)
        jobs.check_squares(value)
    elif job == "J3L":
        for number in range(10):
            contender.J3L(number)
        times = []
        for number in range(jobs.CALLS):
            seconds, value = timed(contender.J3L, number)
            assert value == number
            times.append(seconds)
        return sorted(times)[jobs.CALLS // 2] * 1e3
    else:
        seconds, value = timed(getattr(contender, job))
        {"J1": jobs.check_integral, "J3": jobs.check_trivial, "J5": jobs.check_words}[job](value)
    return jobs.TRIVIAL / seconds if job == "J3" else seconds


def main(name, *wanted):
    with CONTENDERS[name]() as contender:
        assert contender.J4() == 6
        if wanted:
            time.sleep(0.3)  # workers that start in the background are up: only J4 is to measure a start
        for job in wanted:
            print(json.dumps({"contender": name, "job": job, "value": measure(contender, job)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
