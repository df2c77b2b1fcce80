"""What a Hugging Face folder is made of: the sizes that a configuration can say, and code for those that it cannot."""
