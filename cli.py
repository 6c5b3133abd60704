"""From a clone: ``python cli.py ...`` is the command ``deepcompress ...``."""

from deepcompress.cli import main

if __name__ == "__main__":  # processes of a sweep import this file again
    main()
