"""Pruning of training samples: what each is worth, tasks that serve a part of them, and courses taught on that part."""
