"""One command for a team: the specialists behind an OpenAI-compatible HTTP interface, and a page."""
