"""The sdist has every file that git has, but for what pyproject.toml leaves out."""

import subprocess
import sys
import tarfile

LEFT_OUT = (".ci/",)

(path,) = sys.argv[1:]
with tarfile.open(path) as archive:
    packed = {name.partition("/")[2] for name in archive.getnames()}
listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=False)
if listed.returncode != 0:
    print("the sdist was not compared with git: this is no clone")
    sys.exit()
wanted = {name for name in listed.stdout.split("\0") if name and not name.startswith(LEFT_OUT)}
missing = sorted(wanted - packed)
assert not missing, f"the sdist lacks {', '.join(missing)}"
print(f"the sdist has all {len(wanted)} files")
