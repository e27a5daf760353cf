"""The steps that actions run: one module per step, and a table of all of them."""
