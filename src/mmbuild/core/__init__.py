"""The build engine: graph, store and execution. It knows no recipe and no model."""
