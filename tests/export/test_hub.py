"""`--to hub`, against a server on this machine that speaks as the hub does; nothing leaves it."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Runs, images
from test_timm_format import tokens_in_timm

from perceptual_mae import load_encoder
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.export import export_encoder, hub
from perceptual_mae.export.card import CARD

client = pytest.importorskip("huggingface_hub")
pytestmark = pytest.mark.skipif(client.__version__.startswith("0."), reason="the server here speaks with later ones")

TOKEN = "hf_" + "x" * 30


class Hub(ThreadingHTTPServer):
    """Repositories in memory: what of the hub's interface an upload needs."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.large: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        self.fails: dict[str, int] = {}

    def commit(self, lines: bytes) -> None:
        for line in lines.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                self.files[value["path"]] = self.large[value["oid"]]


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def answer(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if "agent-harnesses" in path:  # the client asks who runs it
            return self.send(404, {})
        if not path.startswith("/store/"):
            hub.tokens.add(self.headers.get("authorization"))
        for part, status in hub.fails.items():
            if part in path:
                return self.send(status, {"error": "so it is"})
        if path == "/api/repos/create":
            hub.created.append(json.loads(body))
            return self.send(200, {"url": f"{hub.address}/me/mine"})
        if path == "/api/validate-yaml":
            return self.send(200, {"errors": [], "warnings": []})
        if "/preupload/" in path:
            return self.send(200, {"files": [self.mode(file["path"]) for file in json.loads(body)["files"]]})
        if path == "/me/mine.git/info/lfs/objects/batch":
            objects = [
                one | {"actions": {"upload": {"href": f"{hub.address}/store/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self.send(200, {"transfer": "basic", "objects": objects})
        if path.startswith("/store/"):
            hub.large[path.removeprefix("/store/")] = body
            return self.send(200, {})
        if "/commit/" in path:
            hub.commit(body)
            return self.send(200, {"commitUrl": f"{hub.address}/me/mine/commit/1", "commitOid": "a" * 40})
        if path.startswith("/me/mine/resolve/main/") and path.rpartition("/")[2] in hub.files:
            return self.send(200, {})
        return self.send(404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"})

    do_GET = do_POST = do_PUT = do_HEAD = answer  # noqa: N815

    @staticmethod
    def mode(path: str) -> dict[str, Any]:
        return {
            "path": path,
            "uploadMode": "lfs" if path.endswith(".safetensors") else "regular",
            "shouldIgnore": False,
        }

    def send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        standard = {"content-type": "application/json", "content-length": str(len(text))}
        for name, value in (standard | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Hub]:
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    yield hub
    hub.shutdown()
    hub.server_close()


def environment(server: Hub, **changes: str) -> dict[str, str]:
    """Of a process that may use the network, as far as the server; files go the way that needs no other server."""
    wanted = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_ENDPOINT": server.address, "HF_TOKEN": TOKEN}
    return {**os.environ, **wanted, **changes}


@pytest.fixture
def api(server: Hub, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client in this process."""
    from huggingface_hub import HfApi, constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    return HfApi(endpoint=server.address, token=TOKEN)


@torch.no_grad()
def test_what_arrives_is_the_encoder(runs: Runs, server: Hub, tmp_path: Path) -> None:
    run = runs(image_size="32x48")
    done = subprocess.run(
        [sys.executable, "-m", "perceptual_mae.cli.main", "export", str(run), "--to", "hub", "--repo", "me/mine",
         "--private", "--out", str(tmp_path / "out")],
        env=environment(server), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{server.address}/me/mine"
    assert TOKEN not in done.stdout + done.stderr
    assert server.created == [{"name": "mine", "organization": "me", "visibility": "private"}]
    assert server.tokens == {f"Bearer {TOKEN}"}
    assert set(server.files) == {"README.md", "config.json", "model.safetensors", "export.json"}
    assert 'timm.create_model("hf-hub:me/mine", pretrained=True' in server.files["README.md"].decode()
    arrived = tmp_path / "arrived"
    arrived.mkdir()
    for name, content in server.files.items():
        assert content == (tmp_path / "out" / name).read_bytes()
        (arrived / name).write_bytes(content)
    encoder = load_encoder(run)
    pixels = images(2, 3, (32, 48))
    for tokens in tokens_in_timm(arrived, pixels):
        assert (tokens - encoder(pixels)).abs().max() < 1e-5


def test_a_card_that_somebody_wrote_in_stays(server: Hub, api: Any, tmp_path: Path) -> None:
    (tmp_path / CARD).write_text("ours")
    (tmp_path / "config.json").write_text("{}")
    address, with_card = hub.upload(api, "me/mine", tmp_path, private=False)
    assert (address, with_card) == (f"{server.address}/me/mine", True)
    assert "visibility" not in server.created[0]
    server.files[CARD] = b"theirs"
    (tmp_path / "config.json").write_text("{} ")
    assert hub.upload(api, "me/mine", tmp_path, private=False)[1] is False
    assert server.files == {CARD: b"theirs", "config.json": b"{} "}


@pytest.mark.parametrize(
    ("part", "status", "words"),
    [
        ("/api/", 401, "the token is not valid: make one that may write"),
        ("/api/", 403, "the token may not write there"),
        ("/api/repos/create", 404, "there is no such user or repository"),
        ("/preupload/", 404, "there is no such user or repository"),
        ("/commit/", 400, "the hub refuses what is uploaded"),
        ("/api/repos/create", 500, "the hub cannot do it"),
    ],
)
def test_refusals_are_one_line(server: Hub, api: Any, tmp_path: Path, part: str, status: int, words: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    server.fails[part] = status
    with pytest.raises(PmaeError) as caught:
        hub.upload(api, "me/mine", tmp_path, private=False)
    line = str(caught.value)
    assert line.startswith(f"--repo me/mine: {words}")
    assert f"(HTTP {status}" in line
    assert "\n" not in line
    assert TOKEN not in line


def test_nobody_there_is_one_line(server: Hub, api: Any, tmp_path: Path) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(PmaeError, match=r"--repo me/mine: http://127.0.0.1:\d+ cannot be reached or does not answer"):
        hub.upload(api, "me/mine", tmp_path, private=False)


def test_without_a_token_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    with pytest.raises(PmaeError, match="HF_HUB_OFFLINE is set"):
        export_encoder("no-such-encoder", "hub", tmp_path / "out", repo="me/mine")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(PmaeError, match="--to hub: there is no token: run `hf auth login`, or set HF_TOKEN"):
        export_encoder("no-such-encoder", "hub", tmp_path / "out", repo="me/mine")


@pytest.mark.parametrize("repo", [None, "", "mine", "me/mine/more", "-me/mine", "me/mi ne", "me/mine.", "me/a--b"])
def test_a_repository_is_user_and_name(repo: str | None, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--repo"):
        export_encoder("no-such-encoder", "hub", tmp_path / "out", repo=repo)
    assert hub.check_repository("me/my_Encoder.v1-2") == "me/my_Encoder.v1-2"
