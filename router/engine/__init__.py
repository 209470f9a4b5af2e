"""One base model in memory, and the adapters that run on it."""
