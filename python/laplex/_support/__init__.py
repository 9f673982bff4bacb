"""What every storey uses: optional packages, checks of arguments, progress, files, the console."""
