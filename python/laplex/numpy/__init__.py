"""The NumPy interface: `laplex.Plan` and the checks of its arguments, independent of torch."""
