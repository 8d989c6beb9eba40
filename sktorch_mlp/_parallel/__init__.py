"""Concurrent fits become stacks; imports `_training` and below, and joblib."""
