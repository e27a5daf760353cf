"""Where a built engine loads: told from its description alone, and held against this host.

``drivers``  the lowest driver for a build's CUDA
``here``     what this host has
``rules``    what a build needs, and whether this host has it

Nothing here loads an engine or imports torch. Importing this package reads nothing.
"""
