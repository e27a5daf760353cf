"""Sources of weights: the hub, a local directory, or random numbers with a real model's shapes."""
