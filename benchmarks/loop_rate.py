"""What the real `pmae pretrain` loop keeps of the bare step's rate, reading and augmentation included. Prints JSON."""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import SHAPES, bare_step, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parents[2] / "shared" / "data" / "tiny-imagenet-40"
    parser.add_argument("--data", default=str(default) if default.exists() else "photos")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", default="auto")
    options = parser.parse_args()

    side, patch, batch = SHAPES["micro"]
    bare, loop = [], []
    for _ in range(options.rounds):
        bare.append(in_own_process("print(bare())"))
        with tempfile.TemporaryDirectory() as out:
            flags = f"--model micro --image-size {side} --patch-size {patch} --batch-size {batch} --lr 1.5e-3"
            flags += f" --max-steps {options.steps} --log.every {options.steps // 4} --workers {options.workers}"
            command = [
                sys.executable,
                "-m",
                "perceptual_mae.cli.main",
                "pretrain",
                "--data",
                options.data,
                "--out",
                out,
            ]
            subprocess.run([*command, *flags.split()], check=True, capture_output=True)
            lines = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
            first, last = lines[0], lines[-1]
            # From the second log line on, the whole time that passed: what the first steps warm up does not count.
            loop.append((last["step"] - first["step"]) * batch / (last["seconds"] - first["seconds"]))
    result = {
        "benchmark": "loop_rate",
        "data": Path(options.data).name,
        "workers": options.workers,
        "bare_images_per_second": round(statistics.median(bare), 1),
        "loop_images_per_second": round(statistics.median(loop), 1),
        "share_of_bare": round(statistics.median(x / y for x, y in zip(loop, bare, strict=True)), 3),
    }
    print(json.dumps(result))


def in_own_process(code: str) -> float:
    """A fresh process, as the loop has one: neither inherits warm caches or threads."""
    program = f"from benchmarks.loop_rate import bare; {code}"
    return float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)


def bare() -> float:
    """Images per second of the bare step."""
    step = bare_step("micro")
    for _ in range(5):
        step()
    return SHAPES["micro"][2] / statistics.median(seconds(step) for _ in range(60))


if __name__ == "__main__":
    main()
