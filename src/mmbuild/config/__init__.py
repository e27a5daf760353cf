"""The user's configuration file: toolchains, interpreters and the shared store.

``model``            the form of the file
``load``             finds, reads and checks it
``edit``             changes it
``remote_cache``     settings of the shared store, read without importing anything heavy
``remote_warnings``  warnings and errors of the shared store

Importing this package reads nothing.
"""
