"""What the layer promises, kept under load, faults and bad input."""
