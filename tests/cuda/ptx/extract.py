"""Write the PTX in an object file, made with --no-compress: python extract.py OBJECT PTX."""

import pathlib
import re
import sys

source, target = map(pathlib.Path, sys.argv[1:])
if not (found := re.search(rb"\.version \d[^\0]*", source.read_bytes())):
    sys.exit(f"error: {source} has no PTX: compile for 90-virtual, with -lineinfo --no-compress")
target.write_bytes(found[0])
