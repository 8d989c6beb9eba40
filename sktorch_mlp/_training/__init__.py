"""Training of stacks, from optimizers to what a fit leaves; imports `_data` and `_nn`, and no scikit-learn."""
