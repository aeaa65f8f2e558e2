"""The project's package, as README's recipes name it."""
