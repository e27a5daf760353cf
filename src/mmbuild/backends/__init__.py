"""What builds and runs engines: one package for each backend, and what they share."""
