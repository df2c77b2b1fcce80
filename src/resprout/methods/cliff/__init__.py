"""Where a one-way curve falls."""
