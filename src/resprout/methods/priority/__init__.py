"""Which layers of a sparse network are damaged."""
