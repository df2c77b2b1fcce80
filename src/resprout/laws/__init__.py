"""Scaling laws: what a loss will be, fitted to what it was, and plans that follow from it."""
