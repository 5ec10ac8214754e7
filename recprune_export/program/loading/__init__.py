"""Model files of any kind, opened without executing them unless the user says so."""
