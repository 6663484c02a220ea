"""Groups, how they act, and the subspace E of what they leave fixed."""
