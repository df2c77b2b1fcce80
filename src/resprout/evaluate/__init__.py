"""What one can ask of a network beyond one number."""
