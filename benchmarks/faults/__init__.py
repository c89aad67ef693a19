"""What a run survives, done to it on purpose: kills, damaged checkpoints, broken images, full disks.

`python -m benchmarks.faults` does all of it, `python -m benchmarks.faults kills disk` some; docs/reliability.md has the
figures.
"""
