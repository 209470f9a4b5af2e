"""One renderer of prompts, for training and serving alike."""

from __future__ import annotations

PROMPTS = {
    "scheduling": (
        "You plan meeting rooms; meetings that only touch do not conflict. Work step by step, then end with one "
        "line 'Answer: ' and YES or NO, the number of rooms, or ranges of start times like "
        "09:00-10:15, 13:30-16:00 (or none)."
    ),
    "dates": (
        "Compute with calendar dates step by step, then end with one line 'Answer: ' and a date YYYY-MM-DD, a weekday, "
        "a number, YES or NO."
    ),
    "cron": (
        "Turn a schedule in words into a five-field cron expression, field by field, then end with one line 'Answer: ' "
        "and the expression."
    ),
    "plain": "You are a helpful assistant. Answer briefly.",
}


def messages(prompt: str, question: str) -> list[dict[str, str]]:
    """Chat messages for a question under a system prompt, given by its text."""
    return [{"role": "system", "content": prompt}, {"role": "user", "content": question}]
