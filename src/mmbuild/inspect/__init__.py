"""Explains and compares builds, and checks this host."""
