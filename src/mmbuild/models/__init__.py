"""Models as their files describe them, without torch and transformers."""
