"""Lowering code that backends share: step parameters, resource estimates, downloads and calibration."""
