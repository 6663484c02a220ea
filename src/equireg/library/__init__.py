"""The method for any PyTorch model: ``equireg.Equivariance``."""
