"""Files as a bad disk or a stranger leaves them, and what reading them takes."""

from __future__ import annotations

import random
from pathlib import Path

from hypothesis import strategies as st


def broken(originals, most=6):
    """Some byte strings after a few edits, none of them maybe."""
    # The edits are drawn from one number: to draw each by Hypothesis takes longer
    # than the code under test.
    return st.builds(
        _edited, st.sampled_from(originals), st.integers(0, 2**32), st.integers(0, most)
    )


def _edited(original, seed, edits):
    rng = random.Random(seed)
    data = bytearray(original)
    for _ in range(edits):
        at = rng.randint(0, len(data))
        some = rng.randbytes(rng.randint(1, 16))
        edit = rng.choice(("flip", "flip", "write", "cut", "put", "drop", "copy"))
        if edit == "flip" and at < len(data):
            data[at] ^= 1 << rng.randint(0, 7)
        elif edit == "write":
            data[at : at + len(some)] = some
        elif edit == "cut":
            del data[at:]
        elif edit == "put":
            data[at:at] = some
        elif edit == "drop":
            del data[at : at + len(some)]
        else:
            data[at:at] = data[: rng.randint(0, len(data))]
    return bytes(data)


def memory(field):
    """kB of this process from the kernel: VmRSS now, VmHWM at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise AssertionError(f"no {field}")
