"""The runs that the commands of ``laplex exits`` write and read."""
