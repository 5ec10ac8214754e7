"""The roles of the columns of a file: categorical or numeric field, label, split."""
