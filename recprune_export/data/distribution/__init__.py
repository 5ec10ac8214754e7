"""How ids, numbers and labels are distributed, and how far two distributions lie apart."""
