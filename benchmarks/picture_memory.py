"""Memory of `predict.py` over thousands of pictures.

    python benchmarks/picture_memory.py --pictures=10000 --json=bench_output/memory.json

makes small pictures with a face (scikit-image's astronaut, in the public domain, at 50
sizes), lets `predict.py` write rows for all of them, and prints the resident memory of
its process each time that another thousand pictures have rows.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import skimage.data
from absl import app, flags
from PIL import Image

_PICTURES = flags.DEFINE_integer("pictures", 1000, "How many.", lower_bound=100)
_JSON = flags.DEFINE_string("json", "", "File for the raw numbers.")

ROOT = Path(__file__).resolve().parents[1]
_KINDS, _STEP = 50, 1000


def write_pictures(folder: Path) -> None:
    """Files of their own, some with the same content."""
    face = Image.fromarray(skimage.data.astronaut()).crop((120, 0, 330, 210))
    for number in range(_PICTURES.value):
        path = folder / f"{number:06}.jpg"
        kind = number % _KINDS
        if number < _KINDS:
            face.resize((120 + kind, 120 + kind)).save(path, quality=90)
        else:
            path.hardlink_to(folder / f"{kind:06}.jpg")


def resident_bytes(pid: int) -> int | None:
    """None once the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    found = {}
    with tempfile.TemporaryDirectory() as name:
        pictures, rows = Path(name) / "pictures", Path(name) / "rows.csv"
        pictures.mkdir()
        write_pictures(pictures)
        command = [sys.executable, ROOT / "predict.py", f"--output={rows}", pictures]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        # A hundredth of the first thousand, when all is loaded.
        wanted, count = 100, 0
        with open(rows, "ab+") as file:
            while (resident := resident_bytes(process.pid)) is not None:
                count += file.read().count(b"\n")
                if count >= wanted:
                    found[wanted] = resident
                    print(f"{wanted:,} pictures: {resident / 1e6:.0f} MB", flush=True)
                    wanted = _STEP * (count // _STEP + 1)
                if process.poll() is not None:
                    break
                time.sleep(0.1)
        if process.wait():
            sys.exit(process.stderr.read())
    first, *others = found.values()
    growth = (max(others) - first) / 1e6 if others else 0.0
    print(f"at most {growth:.0f} MB more than after the first hundred")
    if _JSON.value:
        text = json.dumps(
            {"pictures": _PICTURES.value, "resident_bytes": found}, indent=2
        )
        Path(_JSON.value).write_text(text + "\n")


if __name__ == "__main__":
    app.run(main)
