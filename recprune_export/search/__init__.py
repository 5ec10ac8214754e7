"""Search the sparsity for a quality or a speed-up by trials; sweep over sparsities."""
