"""From a checkpoint to a network at any resolution with a fresh head."""
