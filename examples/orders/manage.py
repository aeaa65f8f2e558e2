#!/usr/bin/env python
"""Run a command of the restaurant: ``migrate`` makes its database, ``kitchen`` prints each order as it comes."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orders.settings")
    execute_from_command_line(sys.argv)
