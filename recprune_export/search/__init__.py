"""Find how far a model can be compressed: trials at several sparsities, and what is chosen among them."""
