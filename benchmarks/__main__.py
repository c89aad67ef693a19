"""Run the benchmarks one after the other, a line of JSON each."""

import subprocess
import sys

SCRIPTS = (
    ("benchmarks.step_rate", "--model", "base"),
    ("benchmarks.step_rate", "--model", "base", "--compile"),
    ("benchmarks.step_rate", "--model", "base", "--bf16"),
    ("benchmarks.step_rate", "--model", "micro"),
    ("benchmarks.loop_rate",),
    ("benchmarks.loss_network",),
    ("benchmarks.decode",),
    ("benchmarks.probe",),
    ("benchmarks.embed_rate",),
    ("benchmarks.predict_rate",),
    ("benchmarks.stream",),
    ("benchmarks.coins",),
    ("benchmarks.app",),
)


def main() -> int:
    failed = 0
    for script in SCRIPTS:
        print("$ python -m", *script, file=sys.stderr)
        # A process each: what one leaves behind in memory or threads does not slow the next.
        failed |= subprocess.run([sys.executable, "-m", *script], check=False).returncode
    return failed


sys.exit(main())
