"""Recipes in a CI service: jobs that share no work, what a change costs, shards, annotations and summaries.

:mod:`~mmbuild.ci.variants` plans recipe files, :mod:`~mmbuild.ci.jobs` cuts the union of their graphs; what a service
reads is written by :mod:`~mmbuild.ci.github`, :mod:`~mmbuild.ci.gitlab` and :mod:`~mmbuild.ci.annotate`.
"""
