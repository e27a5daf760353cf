"""What each action does: one module for each step, and the table of them."""
