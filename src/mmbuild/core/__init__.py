"""The build system kernel: graph, store and execution. Independent of recipes and models."""
