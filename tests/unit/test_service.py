"""`hydranet serve` as a client sees it: one service of two workers, over HTTP."""

from __future__ import annotations

import base64
import collections
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import released
from PIL import Image
from sample_pictures import astronaut

from hydranet_tf.inference.predictor import Predictor
from hydranet_tf.photos import predict, rows

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 120
MAX_BODY = 1_000_000


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A service of the released network: host and port, and its process."""
    log = tmp_path_factory.mktemp("service") / "log.txt"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "hydranet_tf", "serve", "--port=0", "--workers=2",
             f"--model={released.LITERT}", "--max_body_mb=1", "--max_pictures=4",
             "--body_seconds=2"],
            cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
    try:
        line = process.stdout.readline()
        assert line, log.read_text()
        port = int(re.match(r"http://127\.0\.0\.1:(\d+)/v1/faces ", line)[1])
        wait_until_ready(("127.0.0.1", port))
        yield ("127.0.0.1", port), process
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        assert process.wait(SECONDS) == 0, log.read_text()
        process.stdout.close()


@pytest.fixture(scope="module")
def address(service):
    """Host and port."""
    return service[0]


def wait_until_ready(address):
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            if ask(address, "GET", "/readyz")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError("the service was not ready in time")


def ask(address, method, path, body=None, **headers):
    """Status and parsed content of a prediction."""
    connection = http.client.HTTPConnection(*address, timeout=SECONDS)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    if response.headers["Content-Type"] == "application/x-ndjson":
        return response.status, [json.loads(line) for line in content.splitlines()]
    return response.status, json.loads(content)


def jpeg(image, quality=90):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def form(*files):
    """Body and content type of a form with files, each a name and bytes."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; '
        f'filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in files
    ]
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


@pytest.fixture(scope="module")
def photographs_():
    """Twelve pictures by name: faces at known places of different sizes, and none."""
    face = astronaut().crop((100, 0, 356, 256))
    found = {}
    for number in range(11):
        picture = Image.new("RGB", (400, 320), (90 + 10 * number, 120, 140))
        side = 180 + 10 * number
        lit = face.resize((side, side)).point(lambda v, n=number: v * (0.5 + 0.05 * n))
        picture.paste(lit, (10 * number, 5 * number))
        found[f"{number}.jpg"] = jpeg(picture)
    found["none.jpg"] = jpeg(Image.new("RGB", (200, 200), "teal"))
    return found


@pytest.fixture(scope="module")
def expected(photographs_):
    """The rows that one process alone gives, as JSON carries them."""
    predictor = Predictor(released.LITERT)
    return {
        name: json.loads(json.dumps(predict.rows_of(name, predictor(content))))
        for name, content in photographs_.items()
    }


def assert_same_rows(found, expected):
    """Equal to the last digit: a face is the same in whatever batch."""
    assert found == expected
    assert all(list(row) == list(rows.COLUMNS) for row in found)


def test_the_pictures_differ_in_their_rows(expected):
    """Or a mix-up would not show."""
    found = [rows[0] for name, rows in expected.items() if name != "none.jpg"]
    assert len({(row["age"], row["p_gender_male"], row["left"]) for row in found}) == 11
    assert expected["none.jpg"][0]["status"] == "no_face"


def test_a_file_of_a_form(address, photographs_, expected):
    body, kind = form(("3.jpg", photographs_["3.jpg"]))
    status, answer = ask(address, "POST", "/v1/faces", body, Content_Type=kind)
    assert (status, list(answer)) == (200, ["rows"])
    assert_same_rows(answer["rows"], expected["3.jpg"])


def test_several_files_some_unreadable(address, photographs_, expected):
    names = ["none.jpg", "5.jpg", "2.jpg"]
    files = [(name, photographs_[name]) for name in names] + [("broken", b"no image")]
    body, kind = form(*files)
    status, answer = ask(address, "POST", "/v1/faces", body, Content_Type=kind)
    assert status == 200
    *rows, broken = answer["rows"]
    assert_same_rows(rows, [row for name in names for row in expected[name]])
    assert broken["file"] == "broken"
    assert broken["status"].startswith("unreadable: ") and broken["age"] is None


def test_json_and_lines(address, photographs_, expected):
    encoded = base64.b64encode(photographs_["7.jpg"]).decode()
    body = json.dumps({"pictures": [{"b64": encoded, "name": "7.jpg"}]})
    status, rows = ask(
        address, "POST", "/v1/faces", body,
        Content_Type="application/json", Accept="application/x-ndjson",
    )  # fmt: skip
    assert status == 200
    assert_same_rows(rows, expected["7.jpg"])


def test_bytes_without_a_search(address):
    face = jpeg(astronaut().crop((150, 30, 300, 200)))
    rows = ask(
        address, "POST", "/v1/faces?detect=false", face, Content_Type="image/jpeg"
    )[1]["rows"]
    (alone,) = Predictor(released.LITERT, None)(face)
    assert rows[0]["file"] == "picture-1" and rows[0]["left"] is None
    assert rows[0]["age"] == pytest.approx(alone.age, abs=0.02)


def test_answers_go_to_whom_they_belong(address, photographs_, expected):
    """Sixteen connections at once, several pictures in some requests."""
    generator = np.random.default_rng(3)
    wanted = [
        list(generator.choice(list(photographs_), generator.integers(1, 4)))
        for _ in range(64)
    ]

    def one(names):
        body, kind = form(*((name, photographs_[name]) for name in names))
        return ask(address, "POST", "/v1/faces", body, Content_Type=kind)

    with ThreadPoolExecutor(16) as pool:
        predictions = list(pool.map(one, wanted))
    for names, (status, answer) in zip(wanted, predictions, strict=True):
        assert status == 200
        assert_same_rows(
            answer["rows"], [row for name in names for row in expected[name]]
        )


JSON = {"Content_Type": "application/json"}
TOO_MANY, MANY_KIND = form(*[(str(i), b"x") for i in range(5)])


@pytest.mark.parametrize(
    ("body", "headers", "code", "says"),
    [
        (b"no image", {"Content_Type": "image/png"}, 422, "unreadable"),
        (b"", {"Content_Type": "image/png"}, 400, "empty picture or none"),
        (b"x", {}, 415, "no content type"),
        (b"x", {"Content_Type": "text/plain"}, 415, "text/plain"),
        (b"{", JSON, 400, "not JSON"),
        (b"[" * 100_000, JSON, 400, "not JSON"),
        (b"[]", JSON, 400, "other JSON"),
        (b'{"pictures": []}', JSON, 400, "or none"),
        (b'{"pictures": [7]}', JSON, 400, "picture 1 as"),
        (b'{"pictures": [{"b64": "!"}]}', JSON, 400, "picture 1 is not base64"),
        (TOO_MANY, {"Content_Type": MANY_KIND}, 413, "at most 4 pictures"),
        (b"x", {"Content_Type": "multipart/form-data"}, 400, "boundary"),
        (b"x" * MAX_BODY + b"x", {"Content_Type": "image/png"}, 413, "1,000,000 bytes"),
    ],
)
def test_a_bad_request_is_told_why(address, body, headers, code, says):
    status, answer = ask(address, "POST", "/v1/faces", body, **headers)
    assert (status, list(answer)) == (code, ["error"])
    assert says in answer["error"]


def test_a_body_without_a_length_is_bounded(address):
    """Sent in chunks, so that nothing declares how much will come."""
    connection = http.client.HTTPConnection(*address, timeout=SECONDS)
    chunks = (b"x" * 100_000 for _ in range(11))
    connection.request(
        "POST", "/v1/faces", chunks, {"Content-Type": "image/png"}, encode_chunked=True
    )
    assert connection.getresponse().status == 413
    connection.close()


def test_slow_clients_time_out_and_hold_nobody_up(address, photographs_, expected):
    """A hundred that stop in the middle of a body, and one that does not."""
    slow = []
    for _ in range(100):
        one = socket.create_connection(address, timeout=SECONDS)
        one.sendall(
            b"POST /v1/faces HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
            b"Content-Length: 1000\r\n\r\nabc"
        )
        slow.append(one)
    body, kind = form(("1.jpg", photographs_["1.jpg"]))
    status, answer = ask(address, "POST", "/v1/faces", body, Content_Type=kind)
    assert status == 200
    assert_same_rows(answer["rows"], expected["1.jpg"])
    for one in slow:
        with one:
            assert one.recv(100).startswith(b"HTTP/1.1 408 ")


def test_what_watches_and_describes(address):
    assert ask(address, "GET", "/healthz") == (200, {"status": "ok"})
    status, described = ask(address, "GET", "/openapi.json")
    assert status == 200
    assert {"/v1/faces", "/v1/models/{name}:predict", "/readyz"} <= set(
        described["paths"]
    )
    responses = described["paths"]["/v1/faces"]["post"]["responses"]
    row = responses["200"]["content"]["application/x-ndjson"]["schema"]
    assert tuple(row["properties"]) == rows.COLUMNS
    with urllib.request.urlopen("http://{}:{}/docs".format(*address)) as page:
        assert b"/openapi.json" in page.read()
    assert ask(address, "GET", "/nowhere") == (404, {"error": "Not Found"})


def test_a_killed_worker_is_replaced_and_the_other_answers(service, photographs_):
    address, process = service
    before = workers_of(process)
    assert len(before) == 2
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    statuses = collections.Counter()
    deadline = time.monotonic() + SECONDS
    while len(workers_of(process) - {killed}) < 2:
        assert time.monotonic() < deadline
        try:
            status, _ = ask(
                address, "POST", "/v1/faces", photographs_["none.jpg"],
                Content_Type="image/jpeg",
            )  # fmt: skip
            statuses[status] += 1
        except OSError:
            # What the dead one had accepted is lost with it.
            statuses["lost"] += 1
    assert set(statuses) <= {200, "lost"} and statuses["lost"] <= 2
    wait_until_ready(address)


def workers_of(process):
    """Ids of its children that serve; multiprocessing's own one does not."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    # Of one that is dead nothing is left to read.
    return {
        int(child)
        for child in children.split()
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    }
