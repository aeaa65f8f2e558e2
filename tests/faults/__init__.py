"""Load, faults and bad input: what must hold then, with real processes and files."""
