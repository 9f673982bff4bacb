"""Shared helpers: optional packages, checks of arguments, progress bars, files and the console."""
