"""How many weights each tensor gets."""
