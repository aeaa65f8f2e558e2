"""Django's command for the project whose tests are run by tests/unit/test_django_tests.py."""

import multiprocessing
import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":  # a process that is started by spawn imports this as well
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
    if method := os.environ.get("PROJECT_START"):  # how the live server's process is started
        multiprocessing.set_start_method(method)
    execute_from_command_line(sys.argv)
