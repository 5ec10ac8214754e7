"""Extensions of the documentation site."""
