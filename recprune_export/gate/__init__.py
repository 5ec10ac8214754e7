"""Is the new artifact as good as the old one? What CI asks: latency with an interval, sizes, quality, signature."""
