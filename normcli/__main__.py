"""The console script's door: answers --version at once, leaves the rest to `normcli.cli`."""

import sys


def main() -> None:
    """Run normcli with the arguments of this process and exit with its code."""
    if sys.argv[1:] == ["--version"]:  # 20 ms instead of 100: nothing but the interpreter is loaded
        from normcli import __version__

        sys.stdout.write(f"normcli {__version__}\n")
        return
    try:
        from normcli.cli import run
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(run())


if __name__ == "__main__":
    main()
