"""Files for serving: the Triton model repository, KServe samples and the README of a bundle."""
