"""Runs a plan: scheduler, workers, resources, and the build directories."""
