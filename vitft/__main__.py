"""`python -m vitft` and the `vitft` command: Ctrl-C is answered even while the first imports run."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from vitft.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("error: Interrupted.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
