"""Toolchain environments: the Python or container image that runs a TensorRT-LLM version.

``launch``   argv and variables of a command inside an environment; runs short commands
``probe``    what is installed in an environment
``programs`` checks for programs on PATH
``versions`` compares versions with specifiers

The user's configuration file names the environments (:mod:`mmbuild.config`). Importing this package reads nothing.
"""
