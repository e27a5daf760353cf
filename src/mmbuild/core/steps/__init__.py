"""The interface of a step, and the registry of steps."""
