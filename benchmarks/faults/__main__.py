"""Run the campaign, or some of its sections; prints JSON. The exit code is 1 when anything was lost or not noticed.

What is done is written to `--out` as it goes: the same command continues after an interruption.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# For the processes that are started, too: sums are the same with the same number of threads.
os.environ["OMP_NUM_THREADS"] = "1"

from benchmarks.faults import damage, disk, images, kills
from perceptual_mae.files import write_json

Section = Callable[[Path, dict[str, Any], Callable[[], None], argparse.Namespace], None]
SECTIONS: dict[str, Section] = {
    "kills": kills.section,
    "damage": damage.section,
    "images": images.section,
    "disk": disk.section,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", default=list(SECTIONS), metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file of what is done; continued where it is there")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--damages", type=int, default=20)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--disks", type=int, default=20)
    options = parser.parse_args()
    if unknown := set(options.sections) - SECTIONS.keys():
        parser.error(f"no section {', '.join(unknown)}: there are {', '.join(SECTIONS)}")

    asked = {"seed": options.seed, **{name: getattr(options, name) for name in ("kills", "damages", "files", "disks")}}
    done: dict[str, Any] = {"benchmark": "faults", "asked": asked}
    if options.out is not None and options.out.exists():
        before = json.loads(options.out.read_text())
        if before["asked"] != asked:
            parser.error(f"--out {options.out} is of another campaign: {before['asked']}")
        done = before

    def note() -> None:
        if options.out is not None:
            write_json(options.out, done)

    failed = False
    for name in options.sections:
        result = done.setdefault(name, {})
        if "faults" not in result:
            with tempfile.TemporaryDirectory() as folder:
                SECTIONS[name](Path(folder), result, note, options)
            note()
        failed |= bool(result["faults"])
    print(json.dumps(done))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
