"""Whole paths from a dense network to a budget."""
