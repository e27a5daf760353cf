"""What every other package may use: it depends on none of them."""
