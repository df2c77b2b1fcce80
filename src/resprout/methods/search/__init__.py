"""What must try candidates."""
