"""Calibration data: samples of a file, of a data set on the hub, or synthetic."""
