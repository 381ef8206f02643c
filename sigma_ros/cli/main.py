# SPDX-License-Identifier: Apache-2.0
"""The command `sigma`: finds the verb, turns failures into one message and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted; verbs that read recordings add 3 (complete with losses).
"""

import sys

OLDEST_PYTHON = (3, 12)


def main() -> None:
    """Entry point of the console script; always leaves through `SystemExit`."""
    if sys.version_info < OLDEST_PYTHON:
        sys.exit(_wrong_python(sys.version_info[:3]))
    from sigma_ros.cli.failures import explained  # noqa: PLC0415 - needs the Python checked above

    with explained():
        from sigma_ros.cli.verbs import app  # noqa: PLC0415

        app(prog_name="sigma")


def _wrong_python(version: tuple[int, ...]) -> str:
    found = ".".join(str(part) for part in version)
    return (
        f"error: wrong Python\n  expected  3.12 or newer\n  got       {found} ({sys.executable})\n"
        "  remedy    use the project's environment: make setup, then . ./env.sh"
    )


if __name__ == "__main__":
    main()
