"""The option `--header 'Name: value'` of commands that ask a service: an API key, say."""

import argparse


def header(text: str) -> tuple[str, str]:
    """The name and value of a header, as argparse's type.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"expected 'Name: value', received {text!r}")
    return name.strip(), value.strip()
