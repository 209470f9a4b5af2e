"""What a specialist knows: its questions, its grader, its prompt and its parser."""
