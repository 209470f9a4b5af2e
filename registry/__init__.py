"""Which versions of which specialists exist: cards, adapter checks, the local store, bundled ones."""
