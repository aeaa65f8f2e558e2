"""What must hold when something fails, or is too much."""
