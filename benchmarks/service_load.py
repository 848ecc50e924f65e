"""Requests a second of `hydranet serve` at 1, 8 and 32 connections, by hey.

    python benchmarks/service_load.py --json=results/service_load.json

starts the service with the released network, sends it the portrait of
web/public/astronaut.jpg for --seconds at each number of connections, then --requests
small pictures at 8 connections. Printed: requests a second, 50th and 99th percentile
of the time that one took, codes that came back, and the memory of the processes before
and after the many. It needs the extra `serve`, psutil, and hey on the path (Debian:
apt install hey).
"""

import csv
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import psutil
import rounds
from absl import app, flags
from PIL import Image

_SECONDS = flags.DEFINE_integer("seconds", 25, "At each of --connections.", 1)
_CONNECTIONS = flags.DEFINE_list("connections", ["1", "8", "32"], "At once.")
_REQUESTS = flags.DEFINE_integer("requests", 10_000, "Small ones; 0 sends none.", 0)
_PORT = flags.DEFINE_integer("port", 8599, "Of the service.")
_JSON = flags.DEFINE_string("json", "", "Writes what was found there, too.")

_ROOT = Path(__file__).resolve().parents[1]
_PICTURE = _ROOT / "web/public/astronaut.jpg"


def hey(url, picture, *how):
    """Sends requests and sums up what came back."""
    done = subprocess.run(
        ["hey", *how, "-o", "csv", "-t", "60", "-m", "POST", "-T", "image/jpeg",
         "-D", picture, url],
        capture_output=True, text=True,
    )  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    if done.returncode or not rows:
        sys.exit(f"hey: {done.stderr or done.stdout}")
    took = np.array([float(row["response-time"]) for row in rows])
    ends = took + [float(row["offset"]) for row in rows]
    return {
        "requests": len(rows),
        "requests_per_second": len(rows) / ends.max(),
        "p50_seconds": float(np.percentile(took, 50)),
        "p99_seconds": float(np.percentile(took, 99)),
        "codes": dict(Counter(row["status-code"] for row in rows)),
    }


def memory(process):
    """Megabytes of each process of the service, the largest first."""
    everyone = [process, *process.children(recursive=True)]
    return sorted((one.memory_info().rss >> 20 for one in everyone), reverse=True)


def measured(process, url, folder):
    """The figures of a service that is ready."""
    found = {
        f"{n} connections": hey(url, _PICTURE, "-z", f"{_SECONDS.value}s", "-c", n)
        for n in _CONNECTIONS.value
    }
    if _REQUESTS.value:
        small = folder / "small.jpg"
        with Image.open(_PICTURE) as picture:
            picture.crop((150, 40, 300, 190)).resize((64, 64)).save(small)
        before = memory(process)
        found["small pictures"] = {
            **hey(url, small, "-n", str(_REQUESTS.value), "-c", "8"),
            "memory_mb_before": before,
            "memory_mb_after": memory(process),
        }
    return found


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    if not shutil.which("hey"):
        sys.exit("expected hey on the path: apt install hey")
    base = f"http://127.0.0.1:{_PORT.value}"
    with tempfile.TemporaryDirectory() as folder:
        service = psutil.Popen(
            [sys.executable, "-m", "hydranet_tf", "serve", f"--port={_PORT.value}"],
            cwd=_ROOT,
        )
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"{base}/readyz", timeout=5).close()
                    break
                except OSError:
                    if service.poll() is not None:
                        sys.exit("the service ended")
                    time.sleep(0.5)
            # Each worker once, so that its first request is not measured.
            hey(f"{base}/v1/faces", _PICTURE, "-n", "16", "-c", "8")
            found = measured(service, f"{base}/v1/faces", Path(folder))
        finally:
            service.terminate()
            service.wait(60)
    for name, figures in found.items():
        print(
            f"{name:15} {figures['requests_per_second']:7.1f} requests/s, "
            f"50th percentile {1000 * figures['p50_seconds']:6.0f} ms, "
            f"99th {1000 * figures['p99_seconds']:6.0f} ms, codes {figures['codes']}"
        )
    if "small pictures" in found:
        small = found["small pictures"]
        print(
            f"memory of the processes: {small['memory_mb_before']} MB before, "
            f"{small['memory_mb_after']} MB after"
        )
    if _JSON.value:
        packages = ("ai-edge-litert", "fastapi", "uvicorn")
        text = json.dumps({"machine": rounds.machine(packages), **found}, indent=2)
        Path(_JSON.value).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
