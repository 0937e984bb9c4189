"""Run the command line: ``python -m lightning_melanoma COMMAND``."""

from lightning_melanoma.cli import main

main()
