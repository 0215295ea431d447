"""The models vitft knows by a short name. Torch-free."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path


@dataclass(frozen=True)
class ModelAlias:
    name: str
    timm: str
    patch_size: int = 16

    def path(self) -> Path:
        return Path(str(resources.files("vitft"))) / "weights" / f"{self.name}.safetensors"


MODELS: dict[str, ModelAlias] = {}
