"""Which specialist answers a question, and answering it."""
