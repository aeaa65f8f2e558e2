"""One suite for every layer: the sentences of the Channels specification, and the traps other layers fell into.

A test that a layer does not pass is skipped for it with the ``deviation`` marker, which says in what it deviates.
"""
