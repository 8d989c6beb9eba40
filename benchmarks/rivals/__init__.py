"""The contestants, one file each.

Each has ``fit(problem, X, y, seed, device)``, timed as a whole, from the data as numpy
arrays to a trained model. It returns the training loss of every epoch: the losses of
its batches, as they were when trained on, averaged over rows.
"""
