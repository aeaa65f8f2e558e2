"""Where speed is measured: ``python -m tests.benchmarks``. Nothing here is asserted by a test.

Every figure is a ratio against a floor that is measured in the same run, in turn with it.
"""
