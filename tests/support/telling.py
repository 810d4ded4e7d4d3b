"""A producer, as text for scripts, whose parts tell what the function `f` of a module beside the script returns."""

TOLD = """
class Told(Producer):
    WORKERS_NUMBER = 4

    @staticmethod
    def map_fn(records):
        return [helper.f(one) for one in records]

    @staticmethod
    def reduce_fn(values):
        return [one for value in values for one in (value if isinstance(value, list) else [value])]
"""
