#!/usr/bin/env python3
"""Runs each test of self_test.cu. Those with a mistake have to fail with the message given here."""

import os
import pathlib
import subprocess
import sys

PROGRAM = pathlib.Path(os.environ["BUILD"]) / "programs" / "self_test"
MISTAKES = {
    "missing_barrier": "race in shared memory, a write, then a read without a barrier: ",
    "write_after_read": "race in shared memory, a read, then a write without a barrier: ",
    "missing_warp_barrier": "without a barrier (within a warp): ",
    "out_of_bounds": "out of bounds: store of 4 bytes of global memory",
    "shared_out_of_bounds": "out of bounds: store of 4 bytes of shared memory",
    "misaligned": "misaligned: load of 4 bytes of global memory",
    "mask": "the caller is not in the mask",
    "lane_outside_the_mask": "a value of lane 20, which does not take part",
    "copy_not_waited_for": "out of bounds: store of 4 bytes of global memory",
    "deadlock": "threads wait for one another in vain",
    "barrier_left_behind": "a barrier that threads of the block have left behind",
    "uninitialised": "out of bounds: store of 4 bytes of global memory",
    "freed": "out of bounds: store of 4 bytes of global memory",
    "too_much_shared": "60000 bytes of shared memory, where 49152 are allowed",
    "empty_grid": "a grid of no blocks",
    "waits_in_capture": "a stream is waited for while it is captured",
}


def main():
    names = subprocess.run([PROGRAM], capture_output=True, text=True, check=False).stdout.split()
    failures = 0
    for name in names:
        done = subprocess.run([PROGRAM, name], capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        message = MISTAKES.get(name, "")
        right = (done.returncode != 0 and message in said) if message else done.returncode == 0
        failures += not right
        print(f"{'ok    ' if right else 'FAILED'} {name}")
        if not right:
            print(said)
    missing = MISTAKES.keys() - set(names)
    print(f"{len(names)} tests, {failures} failed" + (f", missing: {missing}" if missing else ""))
    return 1 if failures or missing else 0


if __name__ == "__main__":
    sys.exit(main())
