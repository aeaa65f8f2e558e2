"""Orders of a restaurant that announce themselves, whoever inserts them: Django, the ``sqlite3`` shell, any program.

How an order travels: a trigger on its table, made by ``migrations/0002_announce.py``, inserts a message for the group
``kitchen`` into a view of channels-lite. Every ``manage.py kitchen`` is in that group. The message belongs to the
transaction of the order: after a rollback there is neither.
"""
