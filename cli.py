"""From a clone: ``python cli.py ...`` is the command ``deepcompress ...``."""

from deepcompress.cli import main

main()
