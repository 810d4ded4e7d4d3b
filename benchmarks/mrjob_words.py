"""J5 for mrjob: each mapper counts first, and yields its counts at its end; a pair a word would take minutes."""

from collections import Counter

from mrjob.job import MRJob


class Words(MRJob):
    def mapper_init(self):
        self.counts = Counter()

    def mapper(self, _, line):
        self.counts.update(line.split())

    def mapper_final(self):
        yield from self.counts.items()

    def reducer(self, word, counts):
        yield word, sum(counts)


if __name__ == "__main__":
    Words.run()
