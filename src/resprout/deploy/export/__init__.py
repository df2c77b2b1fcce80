"""A saved network as something else: C99 source for a microcontroller, ONNX, or a plain PyTorch `state_dict`."""
