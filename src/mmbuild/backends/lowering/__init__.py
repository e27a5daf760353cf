"""What backends share to turn recipes into actions: parameters of steps, estimates, downloads and calibration."""
