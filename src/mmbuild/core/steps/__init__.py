"""The interface of a step, and the table in which one is looked up."""
