"""Support of the tests of backend hf."""
