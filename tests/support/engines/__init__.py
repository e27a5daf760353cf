"""Engines of small models, compiled once for all tests, and programs that ranks run."""
