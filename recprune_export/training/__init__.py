"""Training of the reference recommenders: the loop, the metrics, the checkpoint."""
