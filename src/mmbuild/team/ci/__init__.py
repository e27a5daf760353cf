"""Recipes in CI: jobs that share no work, the cost of a change, shards, annotations and summaries.

``variants`` plans recipe files, ``jobs`` splits the merged graph; ``services``, ``annotate``, ``pr_comment`` and
``summary`` write the formats that CI services read.
"""
