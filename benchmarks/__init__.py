"""Benchmarks: ``python -m benchmarks [NAME...] [--write]``.

Each module here that has a function ``measure() -> list[Row]`` is one benchmark; its docstring says what is
measured. Ratios come from one run on one machine. ``--write`` puts the tables into RESULTS.md.
"""
