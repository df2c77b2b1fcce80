"""`python -m resprout` is `resprout`."""

from .cli import main

main()
