"""Pymar on each of its engines."""

from on_this_host import WORKERS, Serial
from systems import ADaskCluster, ARayCluster


class OnAnEngine(Serial):
    """The jobs as Pymar's users write them."""

    def attach(self, engine):
        """Run the jobs on this engine."""
        from with_pymar import Integral, Lines, Pairs, Points, Squares, SumByKey, Trivial, Trivials, WordCount

        from pymar.datasource import DataSourceFactory as Factory

        self.J1 = lambda: Integral(engine=engine).map(Factory(Points))[1]
        self.J2 = lambda data: Squares(engine=engine).map(Factory(data))[1]
        trivial = Trivial(engine=engine)
        self.J3 = lambda: trivial.map(Factory(Trivials))
        self.J3L = lambda number: trivial.map(Factory(Trivials, limit=1, offset=number))
        self.J4 = lambda: trivial.map(Factory(Trivials, limit=4))
        self.J5 = lambda: WordCount(engine=engine).map(Factory(Lines))
        self.J6 = lambda: SumByKey(engine=engine).map(Factory(Pairs))


class OnOneProcess(OnAnEngine):
    """engine="serial"."""

    def __enter__(self):
        self.attach("serial")
        return self


class Processes(OnAnEngine):
    """engine="processes"."""

    def __enter__(self):
        self.attach(f"processes://{WORKERS}")
        return self

    def __exit__(self, *error):
        from pymar.slots.pool import shutdown

        shutdown()


class OnDask(ADaskCluster, OnAnEngine):
    """engine=client."""

    def __enter__(self):
        super().__enter__()
        self.attach(self.client)
        return self


class OnRay(ARayCluster, OnAnEngine):
    """engine="ray://"."""

    def __enter__(self):
        super().__enter__()
        self.attach("ray://")
        return self
