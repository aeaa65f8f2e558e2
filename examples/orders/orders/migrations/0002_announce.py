"""The trigger that announces each new order to the group ``kitchen``.

A later migration that alters a field of Order makes the table anew on SQLite, and its triggers go with the old one:
put this operation into it once more.
"""

from django.db import migrations

ANNOUNCE = """
CREATE TRIGGER orders_order_announce AFTER INSERT ON orders_order
BEGIN
    INSERT INTO channels_lite_group_send (group_name, message)
    VALUES ('kitchen', json_object('type', 'order.placed', 'id', NEW.id, 'dish', NEW.dish));
END
"""


class Migration(migrations.Migration):
    dependencies = [
        ("orders", "0001_initial"),
        ("channels_lite", "0004_ages_and_publishing"),  # makes the view that the trigger inserts into
    ]
    operations = [migrations.RunSQL(ANNOUNCE, reverse_sql="DROP TRIGGER IF EXISTS orders_order_announce")]
