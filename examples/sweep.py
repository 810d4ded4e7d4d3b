"""At how many growth rates is a population that grows by x -> rate x (1 - x) chaotic? A sweep in which one rate fails.

It is where the Lyapunov exponent, the mean logarithm of the slope, is positive. At rate 2 the slope is 0. The first run
computes all others, keeps them in chaos.ckpt, and ends with PartsFailed, which names that rate. Mend it (`or 1e-300`
behind the slope) and run again: that one alone is computed, since on_mismatch="keep" says that the others are right.
"""

from math import log
from time import perf_counter

import pymar


def exponent(rate, x=0.5):
    return sum(log(abs(rate * (1 - 2 * (x := rate * x * (1 - x))))) for _ in range(50_000)) / 50_000


began = perf_counter()
rates = [number / 100 for number in range(100, 400)]
exponents = pymar.map(exponent, rates, checkpoint="chaos.ckpt", max_failed=5, on_mismatch="keep")
print(f"{sum(one > 0 for one in exponents)} of {len(rates)} are chaotic (it took {perf_counter() - began:.2f} s)")
