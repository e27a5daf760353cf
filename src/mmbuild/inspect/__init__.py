"""Explains and compares what was built, and checks this host."""
