"""``python -m deepcompress`` is the command ``deepcompress``."""

from deepcompress.cli import main

main()
