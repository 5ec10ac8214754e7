"""How many channels each group keeps within the sparsity asked for."""
