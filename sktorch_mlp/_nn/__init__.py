"""Forward pass and gradient of a stack of networks; imports torch, numpy and scipy alone."""
