"""Images per second from a folder, and from the same images as a stream: tar and parquet, here and over HTTP.

Also how many images are lost when a server breaks 5 % of its answers off in the middle. Prints JSON; the rates are of
single processes, one after the other in each round, so that their ratios hold on a busy machine.
"""

import argparse
import json
import multiprocessing
import random
import re
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.measure import seconds
from perceptual_mae.data import StreamSettings, open_source, plan_for, train_loader
from perceptual_mae.data.shard_file import encoded
from perceptual_mae.data.sharding import ShardSettings, write_shards

BATCH = 128


class Server(BaseHTTPRequestHandler):
    """Files with ranges, a share of the answers broken off in the middle."""

    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, drop: float, dropped: Any, *args: Any) -> None:
        self.folder, self.drop, self.dropped = folder, drop, dropped
        super().__init__(*args)

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """Answer."""
        file = self.folder / self.path.lstrip("/")
        if not file.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = file.read_bytes()
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, stop = (int(span[1]), min(int(span[2] or len(data)) + 1, len(data))) if span else (0, len(data))
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(stop - start))
        if span:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.end_headers()
        if random.random() < self.drop:
            with self.dropped.get_lock():
                self.dropped.value += 1
            stop = start + random.randrange(stop - start)
            self.close_connection = True
        self.wfile.write(data[start:stop])


@contextmanager
def served(folder: Path, drop: float = 0.0) -> Iterator[tuple[str, Any]]:
    """The URL of a web server, in a process of its own, and its count of answers that were broken off."""
    dropped = multiprocessing.get_context("fork").Value("i")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, folder, drop, dropped))
    process = multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", dropped
    finally:
        process.kill()
        process.join()
        server.server_close()


def lay_out(data: str, count: int, root: Path) -> int:
    """The first images of a data argument as `folder/`, `parquet/`, and in 10 and 300 shards; returns how many."""
    source = open_source(data)
    assert source is not None
    files = [encoded(source[index].data) for index in range(min(count, len(source)))]
    for folder in ("folder", "parquet"):
        (root / folder).mkdir()
    for number, (image, suffix) in enumerate(files):
        (root / "folder" / f"{number:06d}.{suffix}").write_bytes(image)
    table = pa.table({"image": pa.array([{"bytes": image} for image, _ in files])})
    pq.write_table(table, root / "parquet" / "train.parquet", row_group_size=max(1, len(files) // 10))
    for folder, shards in (("tar", 10), ("many", 300)):
        settings = ShardSettings(samples=max(1, len(files) // shards), check=False)
        write_shards(str(root / "folder"), root / folder, settings)
    return len(files)


def epoch(spec: str, cache: Path) -> tuple[float, int, int]:
    """Images per second of an epoch, distinct images seen, and images skipped. Opening is not counted."""
    source = open_source(spec, stream=StreamSettings(cache=str(cache), timeout=10))
    assert source is not None
    plan = plan_for(source, BATCH, 0, lanes=4, shuffle_buffer=2048)
    loader = train_loader(source, plan, image_size=(64, 64), last_step=plan.steps_per_epoch)
    names: set[str] = set()
    skipped = 0

    def read() -> None:
        nonlocal skipped
        for batch in loader:
            names.update(batch.names)
            skipped += len(batch.skipped)

    taken = seconds(read)
    return BATCH * plan.steps_per_epoch / taken, len(names), skipped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parents[2] / "shared" / "data" / "tiny-imagenet-40"
    parser.add_argument("--data", default=str(default) if default.exists() else "photos")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        images = lay_out(options.data, options.images, root)
        rates: dict[str, list[float]] = {}
        with served(root) as (url, _):
            specs = {
                "folder": str(root / "folder"),
                "tar": f"stream:{root}/tar",
                "parquet": f"stream:{root}/parquet",
                "http": f"{url}/tar",
                "http_cached": f"{url}/tar",
            }
            for number in range(options.rounds):
                for name, spec in specs.items():
                    # A cache of its own for each round: all but the last row begin with an empty one.
                    cache = root / "cache" / f"{number}-{name.removesuffix('_cached')}"
                    rates.setdefault(name, []).append(epoch(spec, cache)[0])
        with served(root, drop=0.05) as (url, dropped):
            _, seen, skipped = epoch(f"{url}/many", root / "dropped")
            broken = dropped.value
    expected = images // BATCH * BATCH
    result = {
        "benchmark": "stream",
        "data": Path(options.data).name,
        "images": images,
        "images_per_second": {name: round(statistics.median(found)) for name, found in rates.items()},
        "ratio_to_folder": {
            name: round(statistics.median(x / y for x, y in zip(found, rates["folder"], strict=True)), 3)
            for name, found in rates.items()
        },
        "with_5_percent_dropped": {"broken_off": broken, "lost": expected - seen, "skipped": skipped},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
