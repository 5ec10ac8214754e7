"""After the rewrites: which weights are stored and multiplied in fewer bits, measured, and held to the metric."""
