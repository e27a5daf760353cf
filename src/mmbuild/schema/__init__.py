"""The recipe: its model, its rules, and the solver of its numbers."""
