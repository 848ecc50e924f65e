"""examples/serving over HTTP and gRPC, in a process of its own."""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import runpy
import select
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import forks
import grpc
import numpy as np
import pytest
import tensorflow as tf
from small_network import (
    SIZE,
    assert_same_predictions,
    encode,
    random_images,
    random_model,
)
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from hydranet_tf.exporting import saved_model

REPOSITORY = Path(__file__).resolve().parents[2]
SERVING = REPOSITORY / "examples" / "serving"
SECONDS = 120
PIXELS = {"signature_name": "pixels"}
# Bytes that are not an image.
X = {"b64": "eA=="}


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A folder like that of export.py, with two versions of different predictions."""
    folder = tmp_path_factory.mktemp("exports")
    for version in (1, 2):
        model = random_model(version)
        description = saved_model.describe(model.tasks, SIZE)
        target = folder / "hydranet" / str(version)
        saved_model.write(model.inference_model(), description, target)
    return folder


@pytest.fixture(scope="module")
def loaded(exports):
    """What the server must answer with: the newer version."""
    return tf.saved_model.load(str(exports / "hydranet" / "2"))


@pytest.fixture(scope="module")
def server(exports, tmp_path_factory):
    """The line that the server prints: model, version and ports."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    command = [sys.executable, SERVING / "server.py", exports / "hydranet"]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, "--http_port=0", "--grpc_port=0"],
            # Anywhere but in the repository.
            cwd=log.parent,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        ready, _, _ = select.select([process.stdout], [], [], SECONDS)
        line = process.stdout.readline() if ready else ""
        assert line, f"the server did not start:\n{log.read_text()}"
        yield json.loads(line)
        assert process.poll() is None, f"the server stopped:\n{log.read_text()}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        process.stdout.close()


@pytest.fixture(scope="module")
def url(server):
    return f"http://127.0.0.1:{server['http']}/v1/models/hydranet"


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(f"127.0.0.1:{server['grpc']}") as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Three files: two drawings and, in their middle, bytes that are not an image."""
    folder = tmp_path_factory.mktemp("faces")
    images = random_images(2, seed=5)
    (folder / "first.jpg").write_bytes(encode(images[0], "JPEG", quality=95))
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "last.png").write_bytes(encode(images[1]))
    return [folder / name for name in ("first.jpg", "broken.jpg", "last.png")]


def expected(loaded, faces):
    """Rows of the model's own predictions."""
    encoded = tf.constant([path.read_bytes() for path in faces])
    answers = loaded.signatures["serving_default"](image_bytes=encoded)
    return {name: answer.numpy() for name, answer in answers.items()}


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def ask(url, content):
    """Status and content of a prediction; `content` as JSON, bytes as they are."""
    if isinstance(url, str):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        url = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as response:
            return response.status, json.load(response, parse_constant=refuse)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def b64(path):
    return {"b64": base64.b64encode(path.read_bytes()).decode()}


def by_name(predictions):
    """Rows of objects to one array an output."""
    return {
        name: np.array([row[name] for row in predictions], np.float32)
        for name in predictions[0]
    }


def test_the_server_takes_the_newest_version(server, url):
    assert (server["model"], server["version"]) == ("hydranet", 2)
    with urllib.request.urlopen(url, timeout=SECONDS) as response:
        assert json.load(response) == {"name": "hydranet", "ready": True}


@pytest.mark.parametrize("named", [False, True])
def test_rows_over_http(url, loaded, faces, named):
    instances = [b64(path) for path in faces]
    if named:
        instances = [{"image_bytes": one} for one in instances]
    status, answer = ask(f"{url}:predict", {"instances": instances})
    assert status == 200 and list(answer) == ["predictions"]
    rows = expected(loaded, faces)
    assert rows["age"][1] == -1 and (rows["age"][[0, 2]] >= 0).all()
    assert_same_predictions(by_name(answer["predictions"]), rows)


@pytest.mark.parametrize("named", [False, True])
def test_columns_over_http(url, loaded, faces, named):
    inputs = [b64(path) for path in faces]
    inputs = {"image_bytes": inputs} if named else inputs
    status, answer = ask(f"{url}:predict", {"inputs": inputs})
    assert status == 200 and list(answer) == ["outputs"]
    assert_same_predictions(
        {k: np.array(v, np.float32) for k, v in answer["outputs"].items()},
        expected(loaded, faces),
    )


def test_pixels_over_http(url, loaded):
    images = random_images(2, seed=6)
    status, answer = ask(f"{url}:predict", {**PIXELS, "instances": images.tolist()})
    assert status == 200
    answers = loaded.signatures["pixels"](images=tf.constant(images))
    assert_same_predictions(
        by_name(answer["predictions"]), {k: v.numpy() for k, v in answers.items()}
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "Unrecognized request format"),
        (b"\xff\xfe", "Unrecognized request format"),
        ([], "instances"),
        ({}, "instances"),
        ({"instances": [X], "inputs": []}, "instances"),
        ({"instances": []}, "at least one image"),
        ({"inputs": []}, "at least one image"),
        ({"instances": "eA=="}, "expected a list"),
        ({"instances": [{"b64": "!"}]}, "not base64"),
        ({"instances": [{"b64": 7}]}, "not base64"),
        ({"instances": [{"pictures": X}]}, "image_bytes"),
        ({"instances": [7]}, "image_bytes: expected string"),
        ({"instances": [[X]]}, "image_bytes: expected string"),
        (
            {"signature_name": "serve", "instances": [X]},
            "no signature 'serve'; this model has serving_default, pixels",
        ),
        (
            {**PIXELS, "instances": [[[[0, 0, 0]]]]},
            "images: expected uint8 \\(None, 40, 40, 3\\), got uint8 \\(1, 1, 1, 3\\)",
        ),
        ({**PIXELS, "instances": [[[[256]]]]}, "0 to 255"),
        ({**PIXELS, "instances": [[[[0.5]]]]}, "0 to 255"),
        ({**PIXELS, "instances": [[1], [1, 2]]}, "shapes"),
        ({**PIXELS, "instances": [X]}, "0 to 255"),
    ],
)
def test_a_bad_request_over_http_gets_a_clear_answer(url, content, says):
    status, answer = ask(f"{url}:predict", content)
    assert status == 400 and list(answer) == ["error"]
    assert re.search(says, answer["error"])


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("s:predict", 404, {"error": "Model with name hydranets does not exist."}),
        ("/versions/1:predict", 404, {"error": "Not Found"}),
        (":classify", 405, {"error": "Method Not Allowed"}),
        ("", 405, {"error": "Method Not Allowed"}),
    ],
)
def test_what_is_not_there_over_http(url, path, status, says):
    assert ask(url + path, {"instances": [X]}) == (status, says)


def test_a_form_is_not_taken_for_json(url):
    header = {"Content-Type": "application/x-www-form-urlencoded"}
    request = urllib.request.Request(f"{url}:predict", b"image=eA==", header)
    assert ask(request, None) == (
        400,
        {"error": "Unrecognized request format: no JSON"},
    )


def grpc_request(signature="", name="image_bytes", values=(), dtype=tf.string):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "hydranet"
    request.model_spec.signature_name = signature
    request.inputs[name].CopyFrom(tf.make_tensor_proto(values, dtype))
    return request


def grpc_answers(stub, request):
    outputs = stub.Predict(request, timeout=SECONDS).outputs
    return {name: tf.make_ndarray(outputs[name]) for name in outputs}


def test_bytes_over_grpc(stub, loaded, faces):
    request = grpc_request(values=[path.read_bytes() for path in faces])
    response = stub.Predict(request, timeout=SECONDS)
    assert response.model_spec.version.value == 2
    assert_same_predictions(grpc_answers(stub, request), expected(loaded, faces))


def test_pixels_over_grpc(stub, loaded):
    images = random_images(2, seed=6)
    request = grpc_request("pixels", "images", images, tf.uint8)
    answers = loaded.signatures["pixels"](images=tf.constant(images))
    assert_same_predictions(
        grpc_answers(stub, request), {k: v.numpy() for k, v in answers.items()}
    )


@pytest.mark.parametrize(
    "request_",
    [
        grpc_request(values=[]),
        grpc_request("pixels", "images", np.zeros([0, SIZE, SIZE, 3]), tf.uint8),
    ],
    ids=["bytes", "pixels"],
)
def test_an_empty_batch_over_grpc_gets_empty_predictions(stub, request_):
    answers = grpc_answers(stub, request_)
    shapes = {name: answer.shape for name, answer in answers.items()}
    assert shapes == {"age": (0,), "gender": (0, 2), "race": (0, 5)}


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (grpc_request("serve", values=[b"x"]), "no signature 'serve'"),
        (grpc_request(name="images", values=[b"x"]), "expected the input image_bytes"),
        (grpc_request(values=[[b"x"]]), "expected string"),
        (grpc_request(values=[1.0], dtype=tf.float32), "expected string"),
        (
            grpc_request("pixels", "images", np.zeros([1, SIZE, SIZE, 3]), tf.float32),
            "expected uint8",
        ),
    ],
    ids=["signature", "input", "rank", "numbers", "floats"],
)
def test_a_bad_request_over_grpc_gets_a_clear_answer(stub, request_, says):
    with pytest.raises(grpc.RpcError, match=says) as caught:
        stub.Predict(request_, timeout=SECONDS)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_what_is_not_there_over_grpc(stub):
    for name, version in (("other", 2), ("hydranet", 1)):
        request = grpc_request(values=[b"x"])
        request.model_spec.name = name
        request.model_spec.version.value = version
        with pytest.raises(grpc.RpcError, match="only hydranet version 2") as caught:
            stub.Predict(request, timeout=SECONDS)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def run(command, server, **options):
    environment = os.environ | {
        "HYDRANET_URL": f"http://127.0.0.1:{server['http']}/v1/models/hydranet",
        "HYDRANET_GRPC": f"127.0.0.1:{server['grpc']}",
    }
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def printed_rows(lines, paths):
    pairs = zip(lines, paths, strict=True)
    return [ast.literal_eval(line.removeprefix(f"{path} ")) for line, path in pairs]


def test_the_http_client(server, loaded, faces):
    printed = run([sys.executable, "-I", SERVING / "client.py", *faces], server)
    first, broken, last = printed.splitlines()
    assert broken == f"{faces[1]} cannot be decoded"
    rows = printed_rows([first, last], faces[::2])
    assert_same_predictions(by_name(rows), expected(loaded, faces[::2]))


def test_the_grpc_client(server, loaded, faces):
    printed = run([sys.executable, SERVING / "grpc_client.py", *faces], server)
    rows = printed_rows(printed.splitlines(), faces)
    assert_same_predictions(by_name(rows), expected(loaded, faces))


def curl_lines():
    """The curl line of each README that has one."""
    for path in (SERVING / "README.md", REPOSITORY / "README.md"):
        for line in path.read_text().splitlines():
            if "curl " in line and ":predict" in line:
                yield pytest.param(line.strip(), id=str(path.relative_to(REPOSITORY)))


@pytest.mark.parametrize("line", list(curl_lines()))
def test_the_curl_line(line, server, loaded, faces, tmp_path):
    (tmp_path / "face.jpg").write_bytes(faces[0].read_bytes())
    assert line.count(":8501/") == 1
    line = line.replace(":8501/", f":{server['http']}/")
    printed = run(["bash", "-c", f"set -o pipefail; {line}"], server, cwd=tmp_path)
    predictions = json.loads(printed)["predictions"]
    assert_same_predictions(by_name(predictions), expected(loaded, faces[:1]))


def test_a_folder_without_versions_is_refused(tmp_path):
    served = runpy.run_path(str(SERVING / "served_model.py"))
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(served["RequestError"], match=re.escape(str(folder))):
            served["ServedModel"](folder)


def test_the_server_says_what_is_wrong_with_its_folder(tmp_path):
    done = forks.run([SERVING / "server.py", tmp_path])
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        f"expected folders {tmp_path}/1, {tmp_path}/2, ..."
    )
