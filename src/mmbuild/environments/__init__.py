"""Environments of toolchains: which Python or container image runs a TensorRT-LLM version, as the user says.

``model``   the form of the configuration file
``load``    where it lies, reading and judging it
``edit``    changing it
``launch``  a command's argv and variables inside an environment
``process`` a short foreign process
``probe``   what is installed in one

Importing this package reads nothing.
"""
