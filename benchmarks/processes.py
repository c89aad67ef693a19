"""Two processes against one: the same losses, step by step?

Trains the same steps twice, by one process with the whole batch and by several with a share each, and compares every
number of the log. In float64 what is left is the float32 of the log; in float32 rounding is left as well, which a game
of two players amplifies from step to step: so a third run, of one process on images that are a rounding error brighter,
shows how far rounding alone carries. Prints JSON.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

METHODS = "mse,ls-gan-p,stylegan2-ada-p"
UNTOLD = ("seconds", "images_per_second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--lr", type=float, default=None, help="default: the recipe's")
    parser.add_argument("--dtypes", default="float64,float32")
    parser.add_argument("--worker", nargs=3, metavar=("OUT", "METHOD", "DTYPE"), help="what processes are started with")
    parser.add_argument("--brighter", action="store_true", help="for a worker: one rounding error")
    options = parser.parse_args()
    if options.worker:
        work(options)
        return
    result: dict[str, Any] = {"benchmark": "processes", "processes": options.processes, "steps": options.steps}
    with tempfile.TemporaryDirectory() as temporary:
        for dtype in options.dtypes.split(","):
            for method in options.methods.split(","):
                name = f"{method}, {dtype}"
                one, several, brighter = (Path(temporary) / name / runs for runs in ("one", "several", "brighter"))
                start(one, method, dtype, 1, options)
                start(several, method, dtype, options.processes, options)
                result[name] = compare(one, several)
                if dtype == "float32":
                    start(brighter, method, dtype, 1, options, "--brighter")
                    result[name]["of rounding alone"] = compare(one, brighter)
    print(json.dumps(result))


def start(out: Path, method: str, dtype: str, processes: int, options: argparse.Namespace, *more: str) -> None:
    """Train a method in so many processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    rate = [] if options.lr is None else [f"--lr={options.lr}"]
    what = ["-m", "benchmarks.processes", f"--steps={options.steps}", *rate, "--worker", str(out), method, dtype, *more]
    done = subprocess.run([sys.executable, *launcher, *what], check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)


def work(options: argparse.Namespace) -> None:
    """Train in this process, or its share."""
    import torch

    from perceptual_mae.api import pretrain
    from perceptual_mae.data.types import to_float
    from perceptual_mae.pretraining import player
    from perceptual_mae.pretraining.config import LogConfig, LossesConfig, PretrainConfig
    from perceptual_mae.pretraining.loss_config import AdaConfig

    out, method, dtype = options.worker[0], options.worker[1], getattr(torch, options.worker[2])
    torch.set_num_threads(1)  # more of them add in another order
    torch.set_default_dtype(dtype)
    to_float.__defaults__ = (dtype,)
    if options.brighter:
        player.to_float = lambda images: to_float(images).mul_(1 + torch.finfo(dtype).eps)  # type: ignore[assignment,misc]
    pretrain(
        PretrainConfig(
            data="photos",
            out=out,
            method=method,
            model="micro",
            image_size=32,
            patch_size=8,
            batch_size=16,
            max_steps=options.steps,
            lr=options.lr,
            device="cpu",
            workers=0,
            losses=LossesConfig(perceptual_every=1),
            ada=AdaConfig(images=2000),  # p moves within the steps
            log=LogConfig(every=1, pictures=0, validate_every=0, tensorboard=False),
        )
    )


def compare(one: Path, other: Path) -> dict[str, Any]:
    """The largest relative difference of the losses, and of anything that is logged."""
    first, second = ([json.loads(line) for line in (run / "metrics.jsonl").open()] for run in (one, other))
    assert len(first) == len(second)
    worst: dict[str, float] = {}
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - set(UNTOLD):
            apart = 0.0 if math.isclose(a[name], b[name], rel_tol=1e-9) else abs(a[name] - b[name]) / abs(a[name])
            worst[name] = max(worst.get(name, 0.0), apart)
    losses = {name: value for name, value in worst.items() if name.startswith("loss/")}
    name = max(worst, key=worst.__getitem__)
    return {
        "loss/total": float(f"{worst['loss/total']:.2g}"),
        "losses": float(f"{max(losses.values()):.2g}"),
        "anything": float(f"{worst[name]:.2g}"),
        "which": name,
    }


if __name__ == "__main__":
    main()
