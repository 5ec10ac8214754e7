"""Files that servers read: the Triton repository, KServe samples, the README of a bundle."""
