"""How near the bare training step comes to the machine's own matrix-product rate. Prints JSON."""

import argparse
import json
import statistics

import torch

from benchmarks.measure import GFLOP, SHAPES, bare_step, matmul_gflops, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=SHAPES, default="base")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--steps", type=int, default=0, help="timed steps; 0: what takes about half a minute")
    options = parser.parse_args()

    step = bare_step(options.model, options.bf16, options.compile)
    fp32 = bare_step(options.model) if options.bf16 else step
    for warm in (step, step, fp32, fp32):
        warm()
    _, _, batch = SHAPES[options.model]
    times, fp32_times, products = [], [], []
    for _ in range(options.steps or (8 if options.model == "base" else 40)):
        # Taken in turn: a machine that is shared changes its speed under a benchmark.
        products.append(matmul_gflops(tries=1))
        times.append(seconds(step))
        if options.bf16:
            fp32_times.append(seconds(fp32))
    took = statistics.median(times)
    rate = batch * GFLOP[options.model] / took
    result = {
        "benchmark": "step_rate",
        "model": options.model,
        "precision": "bf16" if options.bf16 else "fp32",
        "compile": options.compile,
        "threads": torch.get_num_threads(),
        "images_per_second": round(batch / took, 2),
        "gflops": round(rate, 1),
        "matmul_gflops": round(statistics.median(products), 1),
        "share_of_matmul": round(rate / statistics.median(products), 3),
    }
    if options.bf16:
        result["faster_than_fp32"] = round(statistics.median(fp32_times) / took, 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
