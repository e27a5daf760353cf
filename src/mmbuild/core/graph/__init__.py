"""Actions, their keys, and the plan that says which of them run."""
