"""Zeros in what layers read, made as the network runs: no mask of weights, and nothing is trained."""
