"""Federated learning with clients simulated in this process: whose data are whose, rounds of averaging, and what is sent."""
