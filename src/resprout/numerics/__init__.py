"""Mathematics that several methods share and the core does without: second order, knapsacks, distances, mean fields.

Only the core is imported here.
"""
