"""Trivial steps, programs that apply them, and the cache of real steps."""
