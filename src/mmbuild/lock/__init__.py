"""Locks: what a recipe does not say and its result depends on, written down beside it for a whole team.

:mod:`~mmbuild.lock.make` finds it out, :mod:`~mmbuild.lock.model` is the file, :mod:`~mmbuild.lock.compare` tells
what differs.
"""
