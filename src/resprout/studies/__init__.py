"""One file = one question that others have published, asked again here: a claim, what is run, and a verdict."""
