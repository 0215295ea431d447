"""Sources of images, their splits, and the way from encoded bytes to normalised batches."""
