"""The project's own tests; each file opens with why it exists."""
