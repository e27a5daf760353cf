"""Programs that load checkpoints: names of their modules and limits of their kernels, by version.

One YAML file for each program, with the sources that it was read from. ``names_found.py`` next to this package
resolves a checkpoint's names against them, ``kernels_found.py`` its sizes.
"""
