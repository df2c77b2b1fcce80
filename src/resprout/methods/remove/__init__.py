"""Which units leave, found by taking them out and looking."""
