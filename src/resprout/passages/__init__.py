"""Pruning of an index: which passages nobody will miss, and what retrieval is worth without them."""
