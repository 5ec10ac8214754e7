"""Graph passes that convert a captured graph to the form that the analysis reads, one per file."""

__all__ = [
    "constants_to_parameters",
    "decompositions",
    "fold_max_norm",
    "fold_parameters",
    "fuse_layer_norm",
    "replace_constant_masks",
    "replace_embedding_bags",
    "row_constants",
]
