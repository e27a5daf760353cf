"""The engine directory, which every backend writes and reads."""
