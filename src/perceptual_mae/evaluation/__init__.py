"""What was learnt: reconstructions and nearest neighbours of a trained encoder."""
