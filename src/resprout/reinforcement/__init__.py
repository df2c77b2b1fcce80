"""Agents that are pruned while they learn, and what to look at in them."""
