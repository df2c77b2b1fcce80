"""New values for what stays of a layer."""
