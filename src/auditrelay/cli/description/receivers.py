"""What a receiver's description says, and what it takes answers for, in lines for people."""

from collections.abc import Iterator

from auditrelay.cli.description.declared import secrets_lines, settings_lines, titled
from auditrelay.descriptions.model import OAuth2Auth
from auditrelay.descriptions.receiver.load import Receiver
from auditrelay.descriptions.receiver.model import ReceiverFile
from auditrelay.settings.values import format_duration
from auditrelay.sinks.described.canned import canned, of_example


def summary(receiver: Receiver, width: int) -> Iterator[str]:
    """Yield the lines about *receiver*, of *width* characters at most where they are prose."""
    file = receiver.file
    yield f"{file.product} ({file.receiver}), by {file.evidence}, checked {file.checked}"
    for address in file.docs:
        yield f"  {address}"
    for title, lines in (
        ("Needs", (f"- {each}" for each in file.needs)),
        ("Not proved", (f"- {each}" for each in file.unsure)),
        ("Settings", settings_lines(file.settings)),
        ("Secrets", _secrets(file)),
        ("Sends", _sends(file)),
        ("What its answers are taken for", meanings(file)),
    ):
        yield from titled(title, lines, width)


def meanings(file: ReceiverFile) -> Iterator[str]:
    """Yield what each of a set of answers is taken for, and each example of the file."""
    for taken in (*canned(file), *(of_example(file, example) for example in file.examples)):
        unsure = ", possible duplicates" if taken.possibly_stored else ""
        yield f"{taken.answer}: {taken.word}{unsure}"


def wrong_examples(file: ReceiverFile) -> Iterator[str]:
    """Yield each example that is taken for something else than it says."""
    for number, example in enumerate(file.examples):
        taken = of_example(file, example)
        if taken.word != example.means:
            yield (
                f"examples[{number}]: {taken.answer}: means {example.means}, and is taken for "
                f"{taken.word}"
            )


def _secrets(file: ReceiverFile) -> Iterator[str]:
    yield from secrets_lines(file.secrets)
    if isinstance(file.auth, OAuth2Auth):
        yield f"A token is taken from {file.auth.token_url}."
    if not file.secrets:
        yield "none"


def _sends(file: ReceiverFile) -> Iterator[str]:
    request, limits, age = file.request, file.limits, file.age
    yield f"{request.method} {request.url}, {file.body.shape}, form {file.item.form}"
    yield f"each event as {file.item.skeleton}"
    most = {key: value for key, value in limits.model_dump().items() if value and key != "cut"}
    if most:
        how = "what is more is cut, and marked" if limits.cut else "what is more is a dead letter"
        shown = ", ".join(f"{key} {value:,}" for key, value in most.items())
        yield f"at most {shown}; {how}"
    bounds = [
        f"{key} {format_duration(value)}"
        for key, value in (("oldest", age.oldest), ("newest", age.newest))
        if value is not None
    ]
    if bounds:
        yield f"times: {', '.join(bounds)}, else {age.then}"
    yield f"a success proves: {file.proves}"
