"""Decisions per input: what of a network is computed is chosen anew for every sample."""
