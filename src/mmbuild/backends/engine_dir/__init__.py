"""The engine directory, the common output format of all backends."""
