"""Fine-tuning of a pruned program: distillation from the dense one, under masks that hold its zeros."""
