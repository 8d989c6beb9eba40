"""The face of scikit-learn, from parameters to predictions; imports all wings but `_parallel`."""
