"""Recipes in a CI service: jobs that share no work, what a change costs, shards, annotations and summaries.

``variants`` plans recipe files, ``jobs`` cuts the merged graph; ``github``, ``gitlab`` and ``annotate`` write what a
service reads.
"""
