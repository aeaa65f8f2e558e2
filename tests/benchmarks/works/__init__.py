"""What the children do, one module for each part. Only the standard library, Channels, Django and apsw are used here.

Child processes run it with other versions of this package too: a work knows its layer by the Channels API alone.
"""
