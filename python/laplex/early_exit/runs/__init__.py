"""The commands of ``laplex exits``, and the runs that they write and read."""
