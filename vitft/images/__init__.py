"""From encoded bytes to preprocessed pixels, kept on disk, in batches."""
