"""Two small runs that have learnt next to nothing, the studio that shows them, and a browser that looks at its page."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from odd_files import photograph

from perceptual_mae.api import pretrain
from perceptual_mae.app.studio import Studio, open_studio
from perceptual_mae.encoders import open_encoder
from perceptual_mae.evaluation.embed import embed
from perceptual_mae.pretraining.config import PretrainConfig

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, config_for: Callable[..., PretrainConfig]) -> list[str]:
    """Two run folders: square images of 4 x 4 patches, and wide ones, of the middle of an image, of 3 x 6."""
    folder = tmp_path_factory.mktemp("runs")
    fine = pretrain(config_for(folder / "fine"))
    wide = pretrain(config_for(folder / "wide", image_size="24x48", max_steps=2, seed=1))
    return [str(fine), str(wide)]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that are embedded: twelve pieces of a photograph in two folders, and a file that is none."""
    root = tmp_path_factory.mktemp("pictures")
    whole = photograph((400, 300))
    for number in range(12):
        folder = root / ("left" if number % 4 < 2 else "right")
        folder.mkdir(exist_ok=True)
        left, top = number % 4 * 100, number // 4 * 100
        whole.crop((left, top, left + 100, top + 100)).save(folder / f"piece {number}.png")
    (root / "left" / "broken.jpg").write_bytes(b"no image")
    return root


@pytest.fixture(scope="session")
def features(runs: list[str], pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the first run's encoder makes of them, as `pmae embed` writes it."""
    from perceptual_mae.data.joined import open_splits

    file = tmp_path_factory.mktemp("features") / "features.parquet"
    embed(open_encoder(runs[0], None, "cpu")[0], open_splits(str(pictures), "all"), file, batch_size=4, workers=0)
    return str(file)


@pytest.fixture(scope="session")
def studio(runs: list[str], features: str) -> Studio:
    """Both runs, and the neighbours."""
    return open_studio(runs, neighbours=features, max_upload=2.0, device="cpu")


@dataclass(frozen=True)
class Served:
    """A page that is served by `pmae app`: its address, and the folder for whatever it writes for a while."""

    address: str
    temporary: Path


@pytest.fixture(scope="session")
def served(runs: list[str], features: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`pmae app` with both runs and the neighbours; it says nothing but its address, and Ctrl-C ends it quietly."""
    pytest.importorskip("gradio", reason="pip install 'perceptual-mae[app]'")
    import httpx

    temporary = tmp_path_factory.mktemp("temporary")
    # A proxy that is set for the network does not know this machine's own addresses.
    env = {**os.environ, "HTTP_PROXY": "http://127.0.0.1:9", "TMPDIR": str(temporary), "GRADIO_SHARE": "True"}
    command = [sys.executable, "-m", "perceptual_mae.cli.main", "app", *runs, "--neighbours", features]
    command += ["--max-upload", "2", "--device", "cpu"]
    piped: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True, "env": env}
    # A shell's background jobs ignore Ctrl-C, and so do the processes that they start.
    piped["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    with (
        (temporary.parent / "terminal").open("w+", encoding="utf-8") as terminal,
        subprocess.Popen(command, stderr=terminal, **piped) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"(http://127\.0\.0\.1:\d+/)  \(Ctrl-C ends it\)\n", line)
        if found:
            yield Served(found[1], temporary)
            with httpx.stream("GET", found[1] + "gradio_api/heartbeat/a-tab", trust_env=False):  # it is still open
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=60)  # most of it is Python tidying up
        process.kill()
        code = process.wait()
        terminal.seek(0)
        assert (line if found is None else "", terminal.read(), code) == ("", "", 0)


@pytest.fixture(scope="session")
def address(served: Served) -> str:
    """Where the page is."""
    return served.address


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A browser that can reach this machine only."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as player:
        # A proxy that is not there stands for a network that is not there.
        options = ["--no-sandbox", "--proxy-server=127.0.0.1:9", "--proxy-bypass-list=127.0.0.1"]
        browser = player.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()
