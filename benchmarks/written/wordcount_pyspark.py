import sys

from pyspark.sql import SparkSession

lines = SparkSession.builder.getOrCreate().sparkContext.textFile(sys.argv[1], 16)
counts = lines.flatMap(str.split).map(lambda word: (word, 1)).reduceByKey(lambda one, other: one + other)
print(counts.takeOrdered(3, key=lambda pair: -pair[1]))
