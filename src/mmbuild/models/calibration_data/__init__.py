"""Calibration data: samples from a file, from a data set on the hub, or synthetic ones."""
