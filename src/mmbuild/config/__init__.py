"""The user's configuration file: toolchains, interpreters and the shared store.

``model``          the format of the file
``load``           finds, reads and validates it
``edit``           changes it
``remote_cache``   settings of the shared store, read without heavy imports
``remote_errors``  base of the shared store's errors, and its warnings

Importing this package reads nothing.
"""
