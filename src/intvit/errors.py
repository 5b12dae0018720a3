"""What a user's mistake looks like: one line on standard error and exit code 1, never a traceback.

So does what the system refuses (a folder that is not there, a full disk), and Ctrl-C is one word. `HYDRA_FULL_ERROR=1`
in the environment shows the whole traceback instead. Mistakes in the code keep theirs.
"""

import contextlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator


class IntVitError(ValueError):
    """Something that the user can put right: the message says what is wrong, where, and the way out, in one line."""


def one_line(error: BaseException) -> str | None:
    """The message for an error that a user caused, or None for one that a programmer should see whole.

    A user's errors are the subclasses of ValueError that this package defines, a ValueError that it raises itself,
    what the system says about files, and what Hydra and OmegaConf say about a config.
    """
    kind = type(error)
    if kind.__module__.startswith(("hydra.", "omegaconf.")):
        return _config_message(error)
    if isinstance(error, OSError):
        place = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        reason = error.strerror or str(error) or kind.__name__
        return _joined(f"{place}: {reason}" if place else reason)
    if isinstance(error, ValueError):
        frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
        if kind.__module__.startswith("intvit.") or (
            kind is ValueError and frames and frames[-1].startswith("intvit.")
        ):
            return _joined(str(error))
    return None


def _config_message(error: BaseException) -> str:
    """Hydra's message with its cause, on one line, with the options that exist for a preset that does not."""
    message = _joined(str(error))
    if "Could not find" in message and "Available options" in message:
        missing = message.partition("Could not find '")[2].partition("'")[0]
        group, _, name = missing.rpartition("/")
        listed = message.partition("Available options in ")[2].partition(": ")[2].partition(" Config search path")[0]
        options = [option for option in listed.split() if option != "base"]  # what the others share
        return f"no preset {group}={name}; {group} has {', '.join(options)}"
    if message.startswith("Could not override '"):
        return f"{message.split(chr(39))[1]}: no such key; `--cfg job` prints those that there are"
    if mandatory := re.search(r"Missing mandatory value: (\S+) full_key: (\S+)", message):
        key = next(key for key in (*mandatory.groups(), mandatory[1]) if "." in key)
        return f"{key}: missing, and has no default; say {key}=VALUE"
    cause = error.__cause__
    if cause is not None and type(cause).__module__.startswith("omegaconf."):
        message += f" ({str(cause).splitlines()[0]})"
    return message


def _joined(message: str) -> str:
    return " ".join(message.split())


def wants_traceback() -> bool:
    """Whether HYDRA_FULL_ERROR asks for whole tracebacks."""
    return os.environ.get("HYDRA_FULL_ERROR", "0") != "0"


@contextlib.contextmanager
def report_errors(show_traceback: bool | None = None) -> Iterator[None]:
    """Turns a user's error inside the block into one line on standard error and SystemExit(1).

    A reader that closes the pipe early ends the program without a word. show_traceback: lets everything pass instead;
    None asks the environment.
    """
    show_traceback = wants_traceback() if show_traceback is None else show_traceback
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        if show_traceback:
            raise
        print("interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        raise SystemExit(128 + signal.SIGPIPE) from None
    except Exception as error:
        message = one_line(error)
        if message is None or show_traceback:
            raise
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(1) from None
