"""Formats of a check: JUnit XML, Markdown and rows of a table."""
