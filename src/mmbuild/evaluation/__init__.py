"""Quality of an engine's answers next to those of the unquantized model: gates, statistics, the report.

Plain data in and out: nothing here imports torch. ``steps/measure.py`` makes the measurements.
"""
