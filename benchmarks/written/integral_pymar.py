from math import exp

import pymar

DX = 1e-5
print(pymar.dataset(range(int(9 / DX))).map(lambda i: exp(1 + i * DX) * DX).sum())
