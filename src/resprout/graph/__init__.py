"""From a model to its groups of coupled channels; to a smaller model without some of them; and back."""
