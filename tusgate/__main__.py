"""`python -m tusgate` is `tusgate`."""

from tusgate.cli import main

main()
