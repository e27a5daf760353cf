"""Lock files: what a recipe does not say and its result depends on, written down next to it for a whole team.

``make`` finds it out, ``model`` is the file, ``compare`` reports differences, ``apply`` plans with a lock in force.
"""
