"""Presets of the Hub, from a server on this machine that speaks as it does."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import threading

import pytest
import released
import yaml

from hydranet_tf import presets

COMMIT = "a" * 40
NAME = "someone/faces"


class FakeHub(http.server.BaseHTTPRequestHandler):
    """One repository, its files from a folder."""

    folder = None
    asked: list[str] = []

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.asked.append(self.path)
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/{NAME}/revision/"):
            files = [{"rfilename": one.name} for one in self.folder.iterdir()]
            about = {"id": NAME, "sha": COMMIT, "siblings": files, "private": False}
            self.answer(json.dumps(about).encode(), "application/json")
        elif path.startswith(f"/api/models/{NAME}/tree/"):
            files = [
                {
                    "type": "file",
                    "path": one.name,
                    "size": one.stat().st_size,
                    "oid": hashlib.sha1(one.read_bytes()).hexdigest(),
                }
                for one in self.folder.iterdir()
            ]
            self.answer(json.dumps(files).encode(), "application/json")
        elif path.startswith(f"/{NAME}/resolve/"):
            self.answer((self.folder / path.rsplit("/", 1)[1]).read_bytes())
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def answer(self, content, kind="application/octet-stream"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A Hub with the released preset and a file that is none of a preset."""
    FakeHub.folder = tmp_path / "served"
    FakeHub.asked = []
    shutil.copytree(released.PRESET, FakeHub.folder)
    (FakeHub.folder / "malware.pkl").write_bytes(b"no")
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    import huggingface_hub
    from huggingface_hub import constants

    endpoint = f"http://127.0.0.1:{running.server_port}"
    here = {"endpoint": endpoint, "cache_dir": tmp_path / "cache", "token": False}
    download = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, **options: download(name, **here, **options),
    )
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield running
    running.shutdown()
    running.server_close()


def test_a_path_stays_what_it_is(tmp_path):
    assert presets.folder_of(tmp_path) == tmp_path


def test_a_preset_comes_from_the_hub_and_nothing_else_does(server):
    folder = presets.folder_of(f"hf://{NAME}")
    assert presets.read_config(folder) == presets.read_config(released.PRESET)
    for file in (presets.CONFIG, presets.WEIGHTS, presets.TASKS, presets.CARD):
        assert (folder / file).read_bytes() == (released.PRESET / file).read_bytes()
    assert not (folder / "malware.pkl").exists()
    assert not [path for path in FakeHub.asked if path.endswith("malware.pkl")]


def test_a_revision_is_asked_for(server):
    presets.folder_of(f"hf://{NAME}@v2")
    asked = f"/api/models/{NAME}/revision/v2"
    assert any(path.startswith(asked) for path in FakeHub.asked)


@pytest.mark.parametrize("address", ["hf://someone/nothing", "hf://no name at all!"])
def test_what_is_not_there_is_said(server, address):
    with pytest.raises(presets.PresetError, match="cannot get hf://"):
        presets.folder_of(address)


def test_a_damaged_preset_is_not_pushed(tmp_path):
    shutil.copytree(released.PRESET, tmp_path / "preset")
    (tmp_path / "preset" / presets.TASKS).write_text("[]")
    with pytest.raises(presets.PresetError, match="sha256"):
        presets.push_to_hub(tmp_path / "preset", f"hf://{NAME}")


def test_the_page_has_a_block_that_the_hub_reads():
    page = presets.hub_page(released.PRESET)
    _, block, card = page.split("---\n", 2)
    about = yaml.safe_load(block)
    assert about["library_name"] == "keras"
    assert {"hydranet_tf", "age", "gender", "race"} <= set(about["tags"])
    assert card.endswith((released.PRESET / presets.CARD).read_text())
