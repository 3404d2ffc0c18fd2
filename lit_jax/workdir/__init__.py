"""What a run keeps on disk: checkpoints, metrics, lock, bucket."""
