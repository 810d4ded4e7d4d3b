"""Contenders that need nothing but this host."""

import os

import jobs

WORKERS = 2


class Serial:
    """One process. Other contenders have `WORKERS` workers, and merge results as they arrive."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def each(self, function, parts):
        return map(function, parts)

    def one(self, function, part):
        return next(iter(self.each(function, [part])))

    def J1(self):
        return sum(self.each(jobs.integral_part, [(low, high - low) for low, high in jobs.ranges(jobs.EVALUATIONS, 8)]))

    def J2(self, data):
        return sum(self.each(jobs.squares_part, (data[low:high] for low, high in jobs.ranges(jobs.INTS, 8))))

    def J3(self):
        return sum(self.each(jobs.trivial_part, range(jobs.TRIVIAL)))

    def J3L(self, number):
        return self.one(jobs.trivial_part, number)

    def J4(self):
        return sum(self.each(jobs.trivial_part, range(4)))

    def J5(self):
        parts = [(jobs.WORDS, low, high) for low, high in jobs.ranges(os.path.getsize(jobs.WORDS), 16)]
        return jobs.merged(self.each(jobs.words_part, parts))

    def J6(self):
        return jobs.added(self.each(jobs.pairs_part, jobs.ranges(jobs.PAIRS, 16)))


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

    def one(self, function, part):
        return self.pool.apply(function, (part,))


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

    def one(self, function, part):
        return list(self.each(function, [part]))[0]  # noqa: RUF015 - joblib's iterator has to be exhausted


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

    def one(self, function, part):
        return self.pool.apply(function, (part,))
