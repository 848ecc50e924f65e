"""What of examples/serving can be read where TensorFlow Serving cannot run."""

from __future__ import annotations

import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SERVING = REPOSITORY / "examples" / "serving"


def test_the_http_client_is_short_and_needs_python_alone():
    lines = (SERVING / "client.py").read_text().splitlines()
    assert len(lines) <= 20
    imported = {line.split()[1].split(".")[0] for line in lines if "import " in line}
    assert imported <= set(sys.stdlib_module_names)


def test_the_client_in_a_readme_is_the_one_that_is_tested():
    client = (SERVING / "client.py").read_text()
    found = 0
    for path in (SERVING / "README.md", REPOSITORY / "README.md"):
        blocks = re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
        for block in blocks:
            if "urllib" in block:
                assert block == client, path
                found += 1
    assert found


def test_the_batching_configuration():
    """Fields and their forms are those of TensorFlow Serving's BatchingParameters.

    No package has that message; its four numbers are wrapped, its list is not.
    """
    wrapped, sizes = {}, []
    for line in (SERVING / "batching.config").read_text().splitlines():
        if match := re.fullmatch(r"(\w+) \{ value: (\d+) \}", line):
            assert match[1] not in wrapped
            wrapped[match[1]] = int(match[2])
        elif match := re.fullmatch(r"allowed_batch_sizes: (\d+)", line):
            sizes.append(int(match[1]))
        else:
            assert line.startswith("# "), line
    assert sorted(wrapped) == [
        "batch_timeout_micros",
        "max_batch_size",
        "max_enqueued_batches",
        "num_batch_threads",
    ]
    assert min(wrapped.values()) > 0
    assert sizes == sorted(set(sizes)) and sizes[0] == 1
    assert wrapped["max_batch_size"] == sizes[-1]


def test_the_compose_file_agrees_with_the_clients():
    """Docker is not here: what can be read is read."""
    text = (SERVING / "docker-compose.yml").read_text()
    assert re.search(r"image: tensorflow/serving:\d+\.\d+\.\d+$", text, re.MULTILINE)
    mounted = dict(
        re.findall(r"- (\S[^:\n]*|\$\{.*\}/hydranet):(/\S+):ro$", text, re.M)
    )
    assert len(mounted) == 2
    for source in mounted:
        if source.startswith("./"):
            assert (SERVING / source).is_file()
        else:
            assert source.endswith("}/hydranet")
    # The folder's last part is the name of the model.
    assert "/models/hydranet" in mounted.values()
    assert "MODEL_NAME: hydranet\n" in text
    (config,) = re.findall(r"--batching_parameters_file=(\S+)", text)
    assert mounted["./batching.config"] == config
    ports = re.findall(r"- 127\.0\.0\.1:(\d+):(\d+)$", text, re.MULTILINE)
    assert ports == [("8500", "8500"), ("8501", "8501")]
    assert "127.0.0.1:8501/v1/models/hydranet" in (SERVING / "client.py").read_text()
    assert "127.0.0.1:8500" in (SERVING / "grpc_client.py").read_text()
