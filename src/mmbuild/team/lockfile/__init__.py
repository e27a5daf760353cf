"""Lock files: everything that a result depends on besides the recipe, recorded next to it for the whole team.

``make`` collects the facts, ``model`` is the file, ``compare`` reports differences, ``apply`` plans with a lock.
"""
