"""How a new specialist is made: checked examples, LoRA training, a report."""
