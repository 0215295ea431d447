"""What a network has learned: filters, positions, attention, features, and what fine-tuning moved. Numbers only."""
