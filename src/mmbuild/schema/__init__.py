"""Recipes: data model, validation rules, and the solver for derived numbers."""
