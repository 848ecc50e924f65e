"""No start-up text of TensorFlow, oneDNN or LiteRT; everything else is seen."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hydranet_tf import notices

REPOSITORY = Path(__file__).resolve().parents[2]
# As TensorFlow 2.21 and LiteRT 2.1 write them on a machine without a GPU.
NOTICES = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to "
    "STDERR",
    "I0000 00:00:1795854928.143662   21227 port.cc:153] oneDNN custom operations are "
    "on.",
    "I0000 00:00:1795854928.143996   21227 cudart_stub.cc:31] Could not find cuda "
    "drivers on your machine, GPU will not be used.",
    "I0000 00:00:1795854834.465064   20349 cpu_feature_guard.cc:227] This TensorFlow "
    "binary is optimized",
    "To enable the following instructions: AVX2 AVX512F FMA, in other operations",
    "E0000 00:00:1795854835.379923   20349 cuda_platform.cc:52] failed call to cuInit: "
    "INTERNAL: CUDA error: Failed call to cuInit: UNKNOWN ERROR (303)",
    "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.",
    "fully_quantize: 0, inference_type: 6, input_inference_type: FLOAT32",
    "2024-01-01 10:00:00.123456: I tensorflow/core/util/port.cc:113] oneDNN custom",
)
SHOWN = (
    "E0000 00:00:1795854835.379923   20349 cuda_dnn.cc:52] out of memory",
    "W0000 00:00:1795854835.379923   20349 dataset.cc:52] shards are uneven",
    "F0000 00:00:1795854835.379923   20349 cpu_feature_guard.cc:13] The TensorFlow "
    "library was compiled to use AVX instructions",
    "ERROR: tensor 12 is broken",
    "UserWarning: an old version of NumPy",
    "",
)


@pytest.fixture(autouse=True)
def nobody_asked():
    notices.show(False)
    yield
    notices.show(False)


def say(*lines):
    """Writes as C++ does, beside Python's sys.stderr."""
    for line in lines:
        os.write(2, line.encode() + b"\n")


@pytest.mark.parametrize("line", NOTICES)
def test_a_notice_is_known(line):
    assert notices.is_notice(line)


@pytest.mark.parametrize("line", SHOWN)
def test_what_matters_is_no_notice(line):
    assert not notices.is_notice(line)


def test_notices_go_and_the_rest_comes_in_order(capfd):
    say("before")
    with notices.held_back():
        say(NOTICES[0], SHOWN[0], *NOTICES[1:], SHOWN[3])
        assert capfd.readouterr().err == "before\n"
    say(NOTICES[0])
    assert capfd.readouterr().err == f"{SHOWN[0]}\n{SHOWN[3]}\n{NOTICES[0]}\n"


def test_an_error_brings_everything(capfd):
    with pytest.raises(ImportError, match="libcuda"), notices.held_back():
        say(NOTICES[2], "half a line")
        raise ImportError("libcuda")
    assert capfd.readouterr().err == f"{NOTICES[2]}\nhalf a line\n"
    with notices.held_back():
        say(NOTICES[2])
    assert not capfd.readouterr().err, "the error was the one before"


def test_an_end_on_purpose_is_no_error(capfd):
    with pytest.raises(SystemExit), notices.held_back():
        say(NOTICES[2], "what is wrong")
        sys.exit(1)
    assert capfd.readouterr().err == "what is wrong\n"


def test_who_asks_sees_everything_at_once(capfd):
    notices.show()
    with notices.held_back():
        say(NOTICES[0])
        assert capfd.readouterr().err == f"{NOTICES[0]}\n"


def test_blocks_in_each_other_and_in_two_threads_put_back_once(capfd):
    """The thread's block begins inside of the first and ends after it."""
    entered, may_end = threading.Event(), threading.Event()

    def other():
        with notices.held_back():
            say("the other thread")
            entered.set()
            may_end.wait(10)
            say(NOTICES[3], "its end")

    descriptors = len(os.listdir("/proc/self/fd"))
    thread = threading.Thread(target=other)
    with notices.held_back():
        thread.start()
        entered.wait(10)
        with notices.held_back():
            say("inside", NOTICES[1])
    assert not capfd.readouterr().err, "the other thread still holds it"
    may_end.set()
    thread.join()
    assert capfd.readouterr().err == "the other thread\ninside\nits end\n"
    say(NOTICES[1])
    assert capfd.readouterr().err == f"{NOTICES[1]}\n"
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_without_error_output_or_temporary_folder_the_block_runs(tmp_path):
    script = (
        "import os, tempfile\nfrom hydranet_tf import notices\n"
        "tempfile.tempdir = '/nowhere'\n"
        "with notices.held_back(): os.write(2, b'seen')\n"
        "os.close(2)\n"
        "with notices.held_back(): print('ran', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "seen")


def test_an_abort_says_where_it_was():
    """What was written before is lost; the way to see it is --verbosity."""
    script = (
        "import os\nfrom hydranet_tf import notices\n"
        "def imports_a_library(): os.abort()\n"
        "with notices.held_back(): imports_a_library()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode < 0
    assert "Fatal Python error: Aborted" in done.stderr
    assert "in imports_a_library" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ([], False),
        (["--verbosity=1"], True),
        (["--verbosity", "0", "--data=x"], True),
        (["-v", "1"], True),
        (["--verbosity=-1"], False),
        (["--verbosity"], False),
        (["--verbosity=1", "--verbosity=-2"], False),
    ],
)
def test_the_line_of_a_command_asks(arguments, asked, monkeypatch, capfd):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    notices.begin(arguments)
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == ("0" if asked else "3")
    with notices.held_back():
        say(NOTICES[0])
    assert bool(capfd.readouterr().err) == asked
