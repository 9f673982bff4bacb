"""The torch door: `laplex.matvec`, `laplex.LaplaceOperator`, and the backends under them."""
