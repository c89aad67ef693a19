"""Fine-tuning: an encoder and a head learn a labelled task."""
