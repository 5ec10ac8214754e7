"""Rows: ids that training rows hardly show share one row of their table."""
