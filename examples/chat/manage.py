#!/usr/bin/env python
"""Run a command of the chat: ``chat`` starts all of it, ``say`` speaks in a room, ``runworker dice`` is its bot."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chat.settings")
    execute_from_command_line(sys.argv)
