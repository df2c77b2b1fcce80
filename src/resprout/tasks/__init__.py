"""The only place that knows a data format or a model hub."""
