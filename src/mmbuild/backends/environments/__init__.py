"""Environments of toolchains: the Python or container image that runs a TensorRT-LLM version.

``launch``  a command's argv and variables inside an environment
``process`` runs a short foreign process
``probe``   what is installed in an environment

The user's configuration file names the environments (:mod:`mmbuild.config`). Importing this package reads nothing.
"""
