"""The table of orders."""

from django.db import migrations, models
from django.db.models.functions import Now


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("dish", models.CharField(max_length=100)),
                ("placed_at", models.DateTimeField(db_default=Now())),
            ],
        ),
    ]
