"""Turns recipes into actions: loading, lowering and planning."""
