"""The Django application: what it connects when Django starts."""

from django.apps import AppConfig
from django.core.checks import register
from django.db.models.signals import post_migrate


class ChannelsLiteConfig(AppConfig):
    """``channels_lite`` in INSTALLED_APPS."""

    name = "channels_lite"
    verbose_name = "Channels Lite"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from channels_lite import checks, link, operations

        for check in checks.ALL:
            register(check, "channels_lite")
        post_migrate.connect(operations.report, sender=self)
        post_migrate.connect(operations.complete, sender=self)
        link.prepare_connections()
