"""What happens to masks during training."""
