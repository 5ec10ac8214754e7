"""What the commands print: tables for people, JSON for programs. One file for each kind of result."""
