"""Scores of an engine's answers on a data set: questions, scores, results as JSON, comparison (docs/eval.md)."""
