"""Generation elsewhere: vLLM servers as the backend of the same routing, registry and interface."""
