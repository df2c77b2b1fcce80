"""Compare methods under the same training budget: cells in parallel processes, one tidy table, honest statistics."""

from .compare import Comparison, compare

__all__ = ["Comparison", "compare"]
