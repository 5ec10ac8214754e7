"""Write a bundle (the directory that a serving team deploys) atomically, and verify it without PyTorch."""
