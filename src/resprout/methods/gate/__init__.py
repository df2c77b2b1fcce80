"""Masks that are learned."""
