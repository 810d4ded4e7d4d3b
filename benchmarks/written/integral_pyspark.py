from math import exp

from pyspark.sql import SparkSession

DX, PARTS = 1e-5, 8

context = SparkSession.builder.getOrCreate().sparkContext
points = context.parallelize(range(int(9 / DX)), PARTS)
print(points.map(lambda i: exp(1 + i * DX) * DX).sum())
