"""What this host and its environments are, held against what builds need.

``model``          one check
``versions``       versions against specifiers, and what our own extras ask for
``wanted``         what a TensorRT-LLM version wants installed
``examples``       its example scripts
``toolchain``      the environment of a TensorRT-LLM version
``machine``        GPUs, memory, disk
``software``       our Python, torch, git, MPI, containers, TensorRT's interpreter
``compiler``       whether an AOTInductor package can be built and loaded; ``compile_probe`` is what it runs
``needs``          what recipes need
``report``         which checks are made
``render``         telling them

Checks look and change nothing. Importing this package reads nothing.
"""
