"""The server and the command: where it listens, what it turns away, how it ends, and what it is told by the system."""

import importlib.util
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from perceptual_mae.app.fixtures import heading
from perceptual_mae.app.studio import Studio
from perceptual_mae.cli.main import main
from perceptual_mae.errors import PmaeError, UsageError

pytest.importorskip("gradio", reason="pip install 'perceptual-mae[app]'")

import httpx

from perceptual_mae.app.acts import FIRST, Acts
from perceptual_mae.app.page import make_page
from perceptual_mae.app.server import find_port, launch

STYLES = Path(__file__).parents[2] / "src" / "perceptual_mae"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_port_in_use_is_one_line(taken: int) -> None:
    with pytest.raises(PmaeError, match=f"^--port {taken}: address already in use; without --port the first free one"):
        find_port("127.0.0.1", taken)


def test_the_first_free_port(monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    monkeypatch.setattr("perceptual_mae.app.server.FIRST_PORT", taken)
    assert taken < find_port("127.0.0.1", None) < taken + 100
    monkeypatch.setattr("perceptual_mae.app.server.TRIED", 1)
    with pytest.raises(PmaeError, match=f"no port from {taken} to {taken} is free"):
        find_port("127.0.0.1", None)


@pytest.mark.parametrize(
    ("host", "port", "line"),
    [
        ("127.0.0.1", 0, "--port 0: a port is a number from 1 to 65535"),
        ("127.0.0.1", 65536, "--port 65536: a port is"),
        ("no.such.host.invalid", None, "--host no.such.host.invalid: there is no such address"),
        ("a" * 80, None, "there is no such address"),
        ("192.0.2.1", None, "--host 192.0.2.1: it is no address of this machine"),
    ],
)
def test_addresses_that_cannot_be_listened_at(host: str, port: int | None, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        find_port(host, port)


def test_an_address_of_ipv6_is_in_brackets(studio: Studio, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a port that is free there and at 127.0.0.1, where another page may be served."""
    monkeypatch.setattr("perceptual_mae.app.server.FIRST_PORT", taken)
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    page, address = launch(studio, "::1", None)
    try:
        assert re.fullmatch(r"http://\[::1\]:\d+/", address)
        assert address != f"http://[::1]:{taken}/"
        assert httpx.get(address, trust_env=False).status_code == 200
    finally:
        page.close()


@pytest.mark.parametrize(
    ("trained", "shown", "end", "step"),
    [
        (0.75, 0.75, 0.95, 0.05),
        (0.95, 0.95, 0.95, 0.05),
        (0.6, 0.6, 0.95, 0.05),
        (0.97, 0.97, 0.97, 0.01),
        (0.72, 0.72, 0.95, 0.01),
        (0.995, 0.99, 0.99, 0.01),
    ],
)
def test_the_slider_can_show_what_a_run_was_trained_with(
    studio: Studio, trained: float, shown: float, end: float, step: float
) -> None:
    run = replace(studio.runs[0], config=replace(studio.runs[0].config, mask_ratio=trained))
    page = make_page(replace(studio, runs=[run]))
    slider = next(block for block in page.blocks.values() if getattr(block, "label", "") == "Share to hide")
    assert (slider.value, slider.maximum, slider.step) == pytest.approx((shown, end, step))
    assert slider.preprocess(slider.value) == pytest.approx(shown)


def test_what_the_page_does_not_need_is_turned_away(address: str) -> None:
    api = address + "gradio_api/"
    file = {"files": ("a.png", b"bytes")}
    assert httpx.post(api + "upload", files=file).status_code == 403
    for path in ("vibe-edit/", "process_recording", "component_server", "run/take", "stream/1"):
        assert httpx.post(api + path, json={}).status_code == 403, path
    for path in ("deep_link?session_hash=a", f"file={__file__}", "proxy=https://example.org/a", "runs"):
        assert httpx.get(api + path).status_code == 403, path
    assert httpx.delete(api + "queue/join").status_code == 403
    large = httpx.post(api + "queue/join", content=b"x" * 2_800_000)
    assert large.status_code == 413
    endless = httpx.post(api + "queue/join", content=iter([b"x"]))
    assert endless.status_code == 411
    page = httpx.get(address)
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]


def test_it_tells_nobody(address: str) -> None:
    told = json.loads(re.search(r"window.gradio_config = (\{.*?\});</script>", httpx.get(address).text)[1])  # type: ignore[index]
    assert told["analytics_enabled"] is told["run_history"] is told["mcp_server"] is told["pwa"] is False
    assert told["stylesheets"] == []  # fonts that would be fetched
    assert "share" not in str(told["footer_links"])


def test_a_tab_that_outlived_its_server_is_told_what_to_do(studio: Studio) -> None:
    acts = Acts(studio)
    for shown in (acts.paint(None, "01"), acts.look(None, "fine", "", 0), acts.find(None)):
        assert FIRST in shown


def test_colours_are_those_of_the_reports() -> None:
    ours = (STYLES / "app" / "page.css").read_text(encoding="utf-8")
    theirs = (STYLES / "report" / "templates" / "report.css").read_text(encoding="utf-8")
    known = set(re.findall(r"--[a-z]+: #[0-9a-f]+", theirs))
    mine = re.findall(r"--[a-z]+: #[0-9a-f]+", ours)
    assert len(mine) == 18
    assert set(mine) <= known


def test_only_the_page_knows_gradio() -> None:
    knowing = {
        path.stem
        for path in STYLES.rglob("*.py")
        if re.search(r"^\s*(import|from) gradio", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert knowing == {"page", "acts", "theme", "server"}


def test_the_heading_names_the_runs(studio: Studio) -> None:
    assert "fine, wide" in heading(studio.runs)
    assert "Show these models" in heading(studio.runs)
    assert "Show a model" in heading(studio.runs[:1])


def test_without_gradio_it_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "gradio" else there(name, *rest)
    )
    assert main(["app", "runs/mine"]) == 1
    assert capsys.readouterr().err == "pmae: pmae app needs gradio: pip install 'perceptual-mae[app]'\n"


@pytest.mark.parametrize("words", [["--help"], ["app", "--help"]])
def test_help_imports_neither_gradio_nor_torch(words: list[str]) -> None:
    code = (
        "import sys; from perceptual_mae.cli.main import main; main(sys.argv[1:]); "
        "sys.exit(str({'gradio', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.stderr == "set()\n"
    assert "app" in done.stdout


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)])
def test_who_else_can_use_it_is_said(
    host: str, warned: bool, runs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("perceptual_mae.app.server.serve", lambda *given: given[-1]("http://here/"))
    assert main(["app", runs[0], "--host", host, "--device", "cpu", *(["--open"] if warned else [])]) == 0
    said = capsys.readouterr()
    assert said.out == "http://here/  (Ctrl-C ends it)\n"
    line = "pmae: anyone on the network who can reach 0.0.0.0 can use this page\n"
    assert said.err == (line if warned else "")
    assert opened == (["http://here/"] if warned else [])
