"""Small shards, and web servers that lose, stall and lie, for the tests of streams."""

import io
import json
import random
import tarfile
import threading
from collections import Counter
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from odd_files import encode, photograph


@cache
def jpeg(number: int) -> bytes:
    """A photograph that is unlike those of other numbers (up to 40), a kilobyte or two."""
    return encode(photograph((16 + number % 8, 20 + number // 8)), "JPEG")


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **fields) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(data))


def write_tar(path: Path, numbers, start: int = 0) -> Path:
    """A shard with a JPEG and a class for each of `numbers`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            add(tar, f"{number + start:06d}.jpg", jpeg(number % 40))
            add(tar, f"{number + start:06d}.cls", str(number).encode())
    return path


def write_shards(folder: Path, counts, index: bool = True) -> Path:
    """Shards with so many samples each, numbered through, and their index."""
    first, shards = 0, []
    for number, count in enumerate(counts):
        path = write_tar(folder / f"{number:03d}.tar", range(first, first + count))
        shards.append({"url": path.name, "nsamples": count, "filesize": path.stat().st_size})
        first += count
    if index:
        write_index(folder, shards)
    return folder


def write_index(folder: Path, shards) -> None:
    index = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}
    (folder / "index.json").write_text(json.dumps(index))


def write_parquet(path: Path, count: int, rows: int, first: int = 0) -> Path:
    """A table with `rows` rows to a row group."""
    images = [{"bytes": jpeg(number % 40), "path": f"{number}.jpg"} for number in range(first, first + count)]
    noise = [random.Random(number).randbytes(8000) for number in range(count)]
    table = pa.table({"noise": noise, "label": list(range(count)), "image": images})
    pq.write_table(table, path, row_group_size=rows)
    return path


class Trouble:
    """What a server does to its answers, and how often it was asked.

    Attributes:
        drop: share of the answers that are cut off in the middle.
        hang: paths that are never answered.
        status: statuses by path, in place of answers: the first of the list for each, until it is used up.
        ranges: whether it knows them.
        asked: requests by path.
    """

    def __init__(self, drop: float = 0.0, ranges: bool = True) -> None:
        self.drop, self.ranges = drop, ranges
        self.hang: set[str] = set()
        self.status: dict[str, list[int]] = {}
        self.asked: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.dropped = 0
        self.random = random.Random(0)
        self.over = threading.Event()


@contextmanager
def served(folder: Path, trouble: Trouble | None = None):
    """A web server of a folder on this machine: its URL."""
    trouble = trouble or Trouble()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            path = self.path.partition("?")[0].lstrip("/")
            trouble.asked[path] += 1
            if path in trouble.hang:
                trouble.over.wait(20)
                self.close_connection = True
            elif trouble.status.get(path):
                self.answer(trouble.status[path].pop(0))
            elif (folder / path).is_file():
                self.give(path, (folder / path).read_bytes())
            else:
                self.answer(404)

        def answer(self, status):
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def give(self, path, data):
            span = self.headers.get("Range", "") if trouble.ranges else ""
            start, stop = 0, len(data)
            if span:
                first, _, last = span.removeprefix("bytes=").partition("-")
                start, stop = int(first), min(int(last or len(data) - 1) + 1, len(data))
            self.send_response(206 if span else 200)
            if span:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
            self.send_header("Content-Length", str(stop - start))
            self.send_header("ETag", f'"{len(data)}"')
            self.end_headers()
            body = data[start:stop]
            if trouble.random.random() < trouble.drop:
                trouble.dropped += 1
                body = body[: trouble.random.randrange(len(body))]
                self.close_connection = True
            trouble.sent[path] += len(body)
            self.wfile.write(body)

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request, client_address):
            pass  # a client that left early

    server = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        trouble.over.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
