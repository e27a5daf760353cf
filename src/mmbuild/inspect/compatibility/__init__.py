"""Where a built engine loads, from its description alone, compared with this host.

``host_facts``  what this host has
``rules``       what a build needs, and whether this host has it

Nothing here loads an engine or imports torch. Importing this package reads nothing.
"""
