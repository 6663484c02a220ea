"""``python -m equireg`` and ``equireg``: the command line, or what to install for it."""

import sys


def main() -> None:
    """Run the command line. Without the packages that it needs: one line and status 1."""
    try:
        from equireg.cli import main as run

        run()
    except ModuleNotFoundError as error:
        name = error.name or ""
        if name.split(".")[0] == "equireg":
            raise
        sys.exit(
            f"equireg: {name} is not installed; the commands need more than the library does: "
            "pip install 'equireg[workflow]'"
        )


if __name__ == "__main__":
    main()
