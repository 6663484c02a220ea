"""Learning group equivariance from augmented data and a penalty on the non-equivariant weights."""

__version__ = "0.1.0"
