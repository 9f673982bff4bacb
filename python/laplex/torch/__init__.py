"""The PyTorch interface: `laplex.matvec`, `laplex.LaplaceOperator` and their backends."""
