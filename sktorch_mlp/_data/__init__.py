"""From validated arrays to mini-batches on the device; imports `_nn`."""
