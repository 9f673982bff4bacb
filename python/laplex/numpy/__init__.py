"""The NumPy door: `laplex.Plan`, with the checks of its arguments. Nothing here knows torch."""
