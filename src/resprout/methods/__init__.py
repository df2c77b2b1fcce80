"""One file is one published idea; the folder is its kind."""
