from .least_squares import reconstruct_layers as reconstruct_layers
