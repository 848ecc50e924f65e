"""`hydranet demo` of this checkout: python examples/demo.py --output=demo_output."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hydranet_tf.commands import running

if __name__ == "__main__":
    running.script("demo")
