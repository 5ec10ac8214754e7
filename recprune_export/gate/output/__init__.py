"""A check as JUnit XML, as Markdown and as rows of a table."""
