"""The pictures of a page: figures in, static SVG out. One kind of picture per file."""
