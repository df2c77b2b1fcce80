"""Pruning of tokens: which leave, and what those that stay are told about where they were."""
