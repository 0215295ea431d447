"""Fine-tune pretrained Vision Transformers and measure transfer honestly."""

__version__ = "0.2.0"
