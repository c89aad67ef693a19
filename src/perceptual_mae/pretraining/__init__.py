"""The training step, the loop, schedules, checkpoints and exact resume."""
