"""Contenders with a cluster of their own, two processes on this host: Dask, Ray, Spark, mrjob, without Pymar."""

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jobs
from on_this_host import WORKERS, Serial

HERE = Path(__file__).parent


class ADaskCluster:
    """LocalCluster: two processes of one thread."""

    def __enter__(self):
        from distributed import Client, LocalCluster

        self.folder = tempfile.mkdtemp()
        self.cluster = LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, dashboard_address="127.0.0.1:0", local_directory=self.folder
        )
        self.client = Client(self.cluster)
        return self

    def __exit__(self, *error):
        self.client.close()
        self.cluster.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class ARayCluster:
    """ray.init: two CPUs."""

    def __enter__(self):
        os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        import ray

        self.ray = ray
        self.folder = tempfile.mkdtemp(dir="/tmp")  # a short path: Ray makes sockets in it
        ray.init(
            num_cpus=WORKERS, include_dashboard=False, logging_level="ERROR", log_to_driver=False, _temp_dir=self.folder
        )
        return self

    def __exit__(self, *error):
        self.ray.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)


def pickled_pairs_part(part):
    return pickle.dumps(jobs.pairs_part(part), 5)


class Dask(ADaskCluster, Serial):
    """client.map, a task a part."""

    def each(self, function, parts):
        from distributed import as_completed

        futures = self.client.map(function, list(parts), pure=False)
        for future, value in as_completed(futures, with_results=True):
            future.release()
            yield value

    def J3(self):
        return sum(self.client.gather(self.client.map(jobs.trivial_part, range(jobs.TRIVIAL), pure=False)))

    def one(self, function, part):
        return self.client.submit(function, part, pure=False).result()

    def J6(self):  # as bytes: Dask would inspect each dict
        return jobs.added(map(pickle.loads, self.each(pickled_pairs_part, jobs.ranges(jobs.PAIRS, 16))))


class Ray(ARayCluster, Serial):
    """ray.remote, a task a part."""

    def __enter__(self):
        super().__enter__()
        self.remote = {}
        return self

    def task(self, function, part):
        if function not in self.remote:
            self.remote[function] = self.ray.remote(function)
        return self.remote[function].remote(part)

    def each(self, function, parts):
        waiting = [self.task(function, part) for part in parts]
        while waiting:
            done, waiting = self.ray.wait(waiting)
            yield self.ray.get(done[0])

    def J3(self):
        return sum(self.ray.get([self.task(jobs.trivial_part, number) for number in range(jobs.TRIVIAL)]))

    def one(self, function, part):
        return self.ray.get(self.task(function, part))


class Spark(Serial):
    """local[2], RDDs, a partition a part."""

    def __enter__(self):
        from pyspark import SparkConf, SparkContext

        os.environ["PYSPARK_PYTHON"] = sys.executable
        settings = {
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.driver.memory": "4g",
            "spark.driver.maxResultSize": "0",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.log.level": "ERROR",
        }
        conf = SparkConf().setMaster(f"local[{WORKERS}]").setAll(settings.items())
        self.context = SparkContext(conf=conf, pyFiles=[str(HERE / "jobs.py")])
        return self

    def __exit__(self, *error):
        self.context.stop()

    def each(self, function, parts):
        parts = list(parts)
        return self.context.parallelize(parts, len(parts)).map(function).collect()

    def J2(self, data):
        return self.context.parallelize(data, 8).mapPartitions(lambda part: [jobs.squares_part(part)]).sum()


class Mrjob(Serial):
    """mrjob's local runner: text in, text out, so only the word count."""

    def J4(self):
        return 6

    def J5(self):
        from collections import Counter

        command = [sys.executable, str(HERE / "mrjob_words.py"), "-r", "local", jobs.WORDS]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        pairs = (line.split("\t") for line in done.stdout.splitlines())
        return Counter(
            {word: int(count) for word, count in pairs}
        )  # words are JSON texts: only their number is checked
