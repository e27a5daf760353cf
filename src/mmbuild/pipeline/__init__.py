"""From recipes to actions: loading, lowering and planning."""
