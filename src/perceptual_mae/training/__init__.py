"""What every training run needs, whatever it learns: a folder, checkpoints, a device, signals, progress, a schedule."""
