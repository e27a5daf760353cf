"""Actions, their keys, and the plan of which actions run."""
