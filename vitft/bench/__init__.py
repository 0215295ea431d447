"""How fast vitft trains and evaluates here, beside bare loops and beside timm's own way."""
