"""Statistics of activations and gradients on calibration data."""
