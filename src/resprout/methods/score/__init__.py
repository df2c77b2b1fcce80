"""What each weight is worth."""
