"""Where weights come from: the hub, a directory, or random numbers of a real model's shapes."""
