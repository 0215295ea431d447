"""What an update or an answer says is read two later, as from a card."""

from typing import Any

import torch

from vitft.device import Late


class Behind(Late[Any]):
    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.behind = 2
