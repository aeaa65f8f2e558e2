"""The channel layers: one module a backend, for the BACKEND of CHANNEL_LAYERS."""
