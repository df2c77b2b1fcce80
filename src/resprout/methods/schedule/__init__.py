"""Values that move with the progress of training."""
