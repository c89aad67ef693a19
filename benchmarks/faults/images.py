"""A folder with a tenth of its images broken: the others are learnt from, each once an epoch, and those are listed."""

import argparse
import io
import random
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from skimage import data

from perceptual_mae.api import pretrain
from perceptual_mae.data import SamplePlan, open_source, train_loader
from perceptual_mae.pretraining.config import LogConfig, PretrainConfig

EPOCHS = 2


def _jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def _bomb(rng: random.Random) -> bytes:
    """A PNG of a few hundred bytes whose header claims billions of pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", rng.randint(20_000, 99_999), rng.randint(20_000, 99_999), 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")
    )


def _flipped(jpeg: bytes, rng: random.Random) -> bytes:
    """One bit of the three bytes by which a JPEG is known."""
    bit = rng.randrange(24)
    return jpeg[: bit // 8] + bytes([jpeg[bit // 8] ^ 1 << bit % 8]) + jpeg[bit // 8 + 1 :]


Write = Callable[[Path, bytes, random.Random], object]
BROKEN: dict[str, Write] = {
    "cut off": lambda path, jpeg, rng: path.write_bytes(jpeg[: rng.randint(4, len(jpeg) - 40)]),
    "empty": lambda path, jpeg, rng: path.write_bytes(b""),
    "zeros": lambda path, jpeg, rng: path.write_bytes(bytes(len(jpeg))),
    "another format": lambda path, jpeg, rng: path.write_bytes(b"%PDF-1.7\n" + rng.randbytes(2000)),
    "an error page": lambda path, jpeg, rng: path.write_text("<!DOCTYPE html>\n<title>404 Not Found</title>\n" * 9),
    "a bomb": lambda path, jpeg, rng: path.write_bytes(_bomb(rng)),
    "a flipped header": lambda path, jpeg, rng: path.write_bytes(_flipped(jpeg, rng)),
    # Root may read everything; what the kernel answers here is an I/O error, as of a disk that fails.
    "an I/O error": lambda path, jpeg, rng: path.symlink_to("/proc/self/mem"),
}
"""Files that are called like images and cannot be read."""
NO_FILES: dict[str, Write] = {
    "a folder": lambda path, jpeg, rng: path.mkdir(),
    "a link to nothing": lambda path, jpeg, rng: path.symlink_to("is not there.jpg"),
}
"""What is called like an image and is no file: never taken for one."""


def write_files(folder: Path, count: int, rng: random.Random) -> dict[str, str]:
    """Write `count` things called `*.jpg` in four folders, a tenth of them broken, in all ways alike.

    Returns:
        by path, what is wrong with it; empty for good images.
    """
    kinds = BROKEN | NO_FILES
    wrong = [kind for kind in kinds for _ in range(count // 10 // len(kinds))]
    wrong += [""] * (count - len(wrong))
    rng.shuffle(wrong)
    photographs = [Image.fromarray(one) for one in (data.astronaut(), data.chelsea(), data.coffee(), data.rocket())]
    made = {}
    for number, kind in enumerate(wrong):
        picture = photographs[number % len(photographs)]
        left, top = rng.randint(0, picture.width - 48), rng.randint(0, picture.height - 48)
        jpeg = _jpeg(picture.crop((left, top, left + 48, top + 48)))
        name = f"{number % 4}/{number:05}.jpg"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind:
            kinds[kind](path, jpeg, rng)
        else:
            path.write_bytes(jpeg)
        made[name] = kind
    return made


def section(folder: Path, result: dict[str, Any], note: Callable[[], None], options: argparse.Namespace) -> None:
    """`options.files` files: two epochs as the loader gives them, and as a run trains on them."""
    made = write_files(folder / "images", options.files, random.Random(options.seed))
    batch = options.files // 100
    result |= loaded(folder / "images", made, batch) | trained(folder / "images", made, batch, folder / "run")
    wanted = ("good images left out", "good images twice in their own place", "broken images not listed")
    result["faults"] = sum(result[name] for name in (*wanted, "good images listed", "listed twice"))


def loaded(folder: Path, made: dict[str, str], batch: int) -> dict[str, Any]:
    """How often each image is in an epoch. Beside its own place, a good one may stand in the place of a broken one."""
    source = open_source(str(folder))
    assert source is not None
    if len(source) % batch:
        raise ValueError(f"{len(source)} files are no multiple of {batch}: some would wait for another epoch")
    plan = SamplePlan(len(source), batch, seed=0)
    good = {name for name, kind in made.items() if not kind}
    left_out = twice = stand_ins = 0
    stream = iter(train_loader(source, plan, image_size=(32, 32), last_step=EPOCHS * plan.steps_per_epoch))
    for _ in range(EPOCHS):
        used: Counter[str] = Counter()
        broken: Counter[str] = Counter()
        for _ in range(plan.steps_per_epoch):
            one = next(stream)
            used.update(one.names)
            broken.update(skip.name for skip in one.skipped)
        left_out += len(good - used.keys())
        extra = used.total() - len(good)
        places = sum(kind in BROKEN for kind in made.values())
        stand_ins += places
        twice += abs(extra - places)
    return {
        "files": len(made),
        "good": len(good),
        "broken": {kind: sum(one == kind for one in made.values()) for kind in BROKEN | NO_FILES},
        "epochs": EPOCHS,
        "good images left out": left_out,
        "good images twice in their own place": twice,
        "stand-ins": stand_ins,
    }


def trained(folder: Path, made: dict[str, str], batch: int, out: Path) -> dict[str, Any]:
    """What the `skipped.txt` of a run says."""
    log = LogConfig(every=20, pictures=0, validate_every=0, tensorboard=False)
    settings: dict[str, Any] = {"model": "micro", "image_size": 32, "patch_size": 8, "device": "cpu", "log": log}
    pretrain(PretrainConfig(data=str(folder), out=str(out), batch_size=batch, epochs=EPOCHS, workers=0, **settings))
    lines = (out / "skipped.txt").read_text(encoding="utf-8").splitlines()
    listed = Counter(line.split("\t")[0] for line in lines)
    broken = {name for name, kind in made.items() if kind in BROKEN}
    return {
        "skipped.txt": len(lines),
        "broken images not listed": len(broken - listed.keys()),
        "good images listed": len(listed.keys() - broken),
        "listed twice": sum(count > 1 for count in listed.values()),
        "reasons": dict(Counter(_kind(line.split("\t")[1]) for line in lines)),
    }


def _kind(reason: str) -> str:
    """A reason without numbers and bytes of one file alone."""
    return re.sub(r"\d+", "#", reason.split(": it starts with", maxsplit=1)[0])
