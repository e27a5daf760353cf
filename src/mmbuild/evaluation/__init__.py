"""Evaluates the quality of an engine's answers: against the unquantized model (gates, statistics, the report) and
against the answers of a data set (``answers``).

Works on plain data: nothing here imports torch. ``steps/measure.py`` takes the measurements.
"""
