"""``python -m graphsci``."""

from graphsci.cli import main

main()
