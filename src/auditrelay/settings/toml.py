"""Files in TOML that an operator writes: read whole, with a sentence about what is wrong."""

import stat
import tomllib
from pathlib import Path
from typing import Any

from auditrelay.files import open_file, read_bounded


class Unreadable(ValueError):
    """The file is not usable; the message begins with its name, and says what to do."""


def read_toml(path: Path, *, may_be_pipe: bool = False) -> tuple[dict[str, Any], bytes]:
    """
    Return the tables in the file *path*, and its bytes.

    The mark that some editors put at the beginning of a text in UTF-8 is allowed. What is not a
    regular file is refused, unless it *may be a pipe*: then it is read until that ends. Raises
    Unreadable, also for a file that every user of the machine can write.
    """
    try:
        status = path.stat()
        with path.open("rb") if may_be_pipe else open_file(path) as file:
            content = read_bounded(file, path)
    except OSError as error:
        raise Unreadable(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise Unreadable(f"{str(path)!r} is not the name of a file") from error
    if stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IWOTH:
        raise Unreadable(
            f"{path}: every user of this machine can write it, and so have events and "
            f"credentials sent elsewhere: chmod o-w {path}"
        )
    try:
        return tomllib.loads(content.decode("utf-8-sig")), content
    except UnicodeDecodeError as error:
        raise Unreadable(f"{path}: is not text in UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise Unreadable(f"{path}: is nested too deeply") from error
    except ValueError as error:
        # Python 3.11 has the position only in the text: "Invalid value (at line 3, column 5)".
        problem, _, position = str(error).rpartition(" (at ")
        if not problem:  # of a number with thousands of digits there is none
            raise Unreadable(f"{path}: not valid TOML: {error}") from error
        raise Unreadable(f"{path}: {position.rstrip(')')}: not valid TOML: {problem}") from error
