"""How long the page of `pmae app` takes to answer, from the request to the last byte of the answer. Prints JSON.

`micro` with 8-pixel patches on images of 64 pixels: the median and the slowest of some rounds of each thing that a
person can do, asked over HTTP as a browser asks it. A new image is a photograph of 12 megapixels unless told otherwise.
"""

import argparse
import base64
import io
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from gradio_client import Client
from PIL import Image
from skimage import data

from benchmarks.measure import seconds
from perceptual_mae.api import pretrain
from perceptual_mae.app.masks import random_mask, to_text
from perceptual_mae.app.server import launch
from perceptual_mae.app.studio import open_studio
from perceptual_mae.data.joined import open_splits
from perceptual_mae.encoders import open_encoder
from perceptual_mae.evaluation.embed import embed
from perceptual_mae.pretraining.config import CheckpointConfig, LogConfig, PretrainConfig

SIDE, PATCH = 64, 8


def make_run(folder: Path) -> str:
    """A run that has learnt nothing; what it has learnt takes no time."""
    quiet = LogConfig(pictures=0, validate_every=0, tensorboard=False)
    config = PretrainConfig(
        data="photos", out=str(folder), model="micro", image_size=SIDE, patch_size=PATCH, batch_size=16, max_steps=1,
        device="cpu", workers=0, log=quiet, checkpoint=CheckpointConfig(minutes=1e9),
    )  # fmt: skip
    return str(pretrain(config))


def photograph(megapixels: float) -> str:
    """A JPEG of this size as the page sends it."""
    image = Image.fromarray(data.astronaut())
    side = round((megapixels * 1e6) ** 0.5)
    file = io.BytesIO()
    image.resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    content = file.getvalue()
    return json.dumps({"name": "photo.jpg", "size": len(content), "data": base64.b64encode(content).decode()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--megapixels", type=float, default=12.0)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = make_run(folder / "run")
        source = open_splits("photos", "train", channels=3)
        embed(open_encoder(run, None, "cpu")[0], source, folder / "features.parquet", workers=0)
        studio = open_studio([run], neighbours=str(folder / "features.parquet"), device="cpu")
        page, address = launch(studio, "127.0.0.1", None)
        client = Client(address, verbose=False)
        picked = photograph(options.megapixels)
        generator = np.random.default_rng(0)

        def painted() -> None:
            client.predict(to_text(random_mask((8, 8), 0.5, int(generator.integers(1000)))), api_name="/paint")

        def clicked() -> None:
            row, column = generator.integers(8, size=2)
            client.predict(run_name, f"{row},{column}", 5, api_name="/look")

        def taken() -> None:
            client.predict(picked, 0.75, run_name, api_name="/take")
            painted()
            clicked()

        def masked() -> None:
            client.predict(0.75, api_name="/draw_another")
            painted()

        run_name = studio.lookers[0].name
        actions = {
            "new_image": taken,
            "new_mask": masked,
            "painted_mask": painted,
            "clicked_patch": clicked,
            "neighbours": lambda: client.predict(api_name="/find"),
        }
        result: dict[str, object] = {
            "benchmark": "app",
            "model": f"micro, {SIDE} px / patch {PATCH}",
            "megapixels": options.megapixels,
            "neighbours": len(source),
            "threads": torch.get_num_threads(),
        }
        for what, action in actions.items():
            action()  # warms up
            times = [seconds(action) for _ in range(options.rounds)]
            result[f"{what}_seconds"] = round(statistics.median(times), 3)
            result[f"{what}_slowest_seconds"] = round(max(times), 3)
        print(json.dumps(result))
        page.close(verbose=False)


if __name__ == "__main__":
    main()
