"""The content-addressed store: artifacts, the action cache, named builds, garbage collection."""
