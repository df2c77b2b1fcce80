"""How a network gets its accuracy back."""
