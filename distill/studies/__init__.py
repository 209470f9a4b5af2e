"""Findings of the projects this one grew from, as experiments that anyone can run again."""
