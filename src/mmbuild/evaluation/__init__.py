"""Evaluates the quality of an engine's answers against the unquantized model: gates, statistics, the report.

Works on plain data: nothing here imports torch. ``steps/measure.py`` takes the measurements.
"""
