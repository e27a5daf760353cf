"""Foundations used by every other package; depends on none of them."""
