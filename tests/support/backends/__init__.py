"""Backends that tests add."""
