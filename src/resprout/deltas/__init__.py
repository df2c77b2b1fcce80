"""Pruning of differences: what fine-tuning has added to a network, cut and rescaled, kept in a small file beside it."""
