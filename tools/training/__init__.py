"""Training and examination of the demo models; ``tools/train_demo.py`` is the command."""
