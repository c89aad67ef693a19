"""A folder of the files that people's image folders really hold, each made from a real photograph."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import skimage
import tifffile
from PIL import Image

ORIENTATION = 0x0112


def photograph(size: tuple[int, int] = (120, 90)) -> Image.Image:
    """The cat, `size` (width, height) pixels."""
    with Image.open(Path(skimage.__file__).parent / "data" / "chelsea.png") as image:
        return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """An image in the bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_orientation(image: Image.Image, orientation: int, kind: str = "JPEG") -> bytes:
    """An image file whose EXIF says how to turn it."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(image, kind, exif=exif.tobytes())


def good_files() -> dict[str, bytes]:
    """Files that must be read, however odd."""
    photo = photograph()
    grey = photo.convert("L")
    deep = np.asarray(grey).astype(np.uint16) * 257
    rgba = photo.copy()
    rgba.putalpha(Image.linear_gradient("L").resize(photo.size))
    palette = photo.quantize(16)
    files = {
        "rgb.jpg": encode(photo, "JPEG", quality=92),
        "grey.jpg": encode(grey, "JPEG"),
        "cmyk.jpg": encode(photo.convert("CMYK"), "JPEG"),
        "progressive.JPEG": encode(photo, "JPEG", progressive=True),
        "no chroma subsampling.jpe": encode(photo, "JPEG", subsampling=0),
        "trailing bytes.jpg": encode(photo, "JPEG") + b"and something a camera left behind",
        "rgb.png": encode(photo, "PNG"),
        "grey.png": encode(grey, "PNG"),
        "grey16.png": encode(Image.fromarray(deep), "PNG"),
        "one bit.png": encode(grey.convert("1"), "PNG"),
        "palette.png": encode(palette, "PNG"),
        "palette transparent.png": encode(palette, "PNG", transparency=3),
        "rgba.png": encode(rgba, "PNG"),
        "grey alpha.png": encode(rgba.convert("LA"), "PNG"),
        "turned.png": with_orientation(photo, 6, "PNG"),
        "lossy.webp": encode(photo, "WEBP", quality=80),
        "lossless.webp": encode(photo, "WEBP", lossless=True),
        "alpha.webp": encode(rgba, "WEBP"),
        "animated.webp": encode(photo, "WEBP", save_all=True, append_images=[photo.rotate(90), grey.convert("RGB")]),
        "rgb.tif": encode(photo, "TIFF"),
        "deflated.tiff": encode(photo, "TIFF", compression="tiff_adobe_deflate"),
        "cmyk.tif": encode(photo.convert("CMYK"), "TIFF"),
        "pages.TIFF": encode(photo, "TIFF", save_all=True, append_images=[grey.convert("RGB")]),
        "grey16.tif": _tiff(deep),
        "rgb16.tif": _tiff(np.asarray(photo).astype(np.uint16) * 257, photometric="rgb"),
        "float.tif": _tiff(np.asarray(grey).astype(np.float32) / 255),
        "float rgb.tif": _tiff(np.asarray(photo).astype(np.float32) / 255, photometric="rgb"),
        "plain.bmp": encode(photo, "BMP"),
        "animated.gif": encode(photo, "GIF", save_all=True, append_images=[photo.rotate(180)]),
        "really a png.jpg": encode(photo, "PNG"),
        "really a jpeg.png": encode(photo, "JPEG"),
        "one pixel.png": encode(photo.resize((1, 1)), "PNG"),
        "a line.png": encode(photo.resize((3000, 1)), "PNG"),
        "a thread.jpg": encode(photo.resize((1, 3000)), "JPEG"),
        "Übergröße 猫.jpg": encode(photo, "JPEG"),
        "two\nlines.jpg": encode(photo, "JPEG"),
    }
    files |= {f"turned {orientation}.jpg": with_orientation(photo, orientation) for orientation in range(1, 9)}
    return files


def broken_files() -> dict[str, bytes]:
    """Files that must be refused, each with a reason and none with a crash."""
    photo = photograph()
    jpeg, progressive = encode(photo, "JPEG"), encode(photo, "JPEG", progressive=True)
    png, webp = encode(photo, "PNG"), encode(photo, "WEBP")
    return {
        "empty.jpg": b"",
        "empty.png": b"",
        "text.jpg": b"This was an error page once.\n" * 20,
        "half.jpg": jpeg[: len(jpeg) // 2],
        "half progressive.jpg": progressive[: len(progressive) // 2],
        "last bytes missing.jpg": jpeg[:-20],
        "header only.jpg": jpeg[:200],
        "half.png": png[: len(png) // 2],
        "half.webp": webp[: len(webp) // 2],
        "half.tif": encode(photo, "TIFF")[:500],
        "flipped bits.png": png[:100] + bytes(255 - byte for byte in png[100:400]) + png[400:],
        "bomb.png": png_claiming(60_000, 60_000),
        "bomb.jpg": jpeg_claiming(jpeg, 65_000, 65_000),
        "no image.gif": b"GIF89a" + b"\0" * 20,
        "postscript.bmp": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    }


def write_odd_files(folder: Path) -> tuple[list[str], list[str]]:
    """Write all of them, and things that only look like images (a folder called `folder.jpg`, a dangling link).

    Returns the names of the files to be read and of those to be skipped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    good, broken = good_files(), broken_files()
    for name, data in (good | broken).items():
        (folder / name).write_bytes(data)
    (folder / "folder.jpg").mkdir()
    (folder / ".hidden.jpg").write_bytes(b"no")
    (folder / "notes.txt").write_text("not an image, and not called one", encoding="utf-8")
    os.symlink(folder / "is not there", folder / "dangling.jpg")
    return list(good), list(broken)


def png_claiming(width: int, height: int) -> bytes:
    """A short PNG whose header claims a size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg_claiming(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG whose frame header claims another size."""
    at = jpeg.index(b"\xff\xc0")
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


def _tiff(array: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()
