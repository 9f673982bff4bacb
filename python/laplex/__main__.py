"""``python -m laplex``: the ``laplex`` command."""

from laplex.cli import main

if __name__ == "__main__":
    main()
