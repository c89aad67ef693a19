"""What a pre-training run will take, before a cluster is paid for."""
