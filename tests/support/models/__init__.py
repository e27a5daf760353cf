"""Small models on disk: directories, configs, weights, checkpoints, and what transformers makes of them."""
