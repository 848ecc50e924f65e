"""Asks a TensorFlow Serving server over HTTP: python client.py FACE.jpg ..."""

import base64
import json
import os
import sys
import urllib.request

URL = os.environ.get("HYDRANET_URL", "http://127.0.0.1:8501/v1/models/hydranet")
instances = []
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        instances.append({"b64": base64.b64encode(file.read()).decode()})
body = json.dumps({"instances": instances}).encode()
header = {"Content-Type": "application/json"}
request = urllib.request.Request(f"{URL}:predict", body, header)
with urllib.request.urlopen(request, timeout=60) as response:
    predictions = json.load(response)["predictions"]
for path, prediction in zip(sys.argv[1:], predictions, strict=True):
    print(path, prediction if prediction["age"] >= 0 else "cannot be decoded")
