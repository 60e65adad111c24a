"""
The base class of the doubles of SIEM intakes.

A double is a module of this folder, named like the type of the sink that it is for, with one
subclass of :class:`Intake`. The class declares what the tests over all sinks and the demo need: how
a sink is pointed at it, what it stored, whether it deduplicates, its refusals and misbehaviours.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, ClassVar

from auditrelay.sandbox.faults import Action
from auditrelay.sandbox.refusals import Refusal
from auditrelay.sandbox.server import Double
from auditrelay.sandbox.stored import Stored

__all__ = ["Intake", "Misbehaviour", "Refusal", "Variant", "available"]

Misbehaviour = Callable[[Any], object]
"""Makes the given double do something wrong, now or at the next requests."""


@dataclass(frozen=True, slots=True)
class Variant:
    """
    Another set-up of a product that a sink has a mode for, with its own *misbehaviours*.

    *prepare* sets up a new double; *settings* are what the sink needs in addition.
    """

    name: str
    prepare: Callable[[Any], object]
    settings: Mapping[str, Any]
    misbehaviours: Mapping[str, Misbehaviour] = field(default_factory=dict)


class Intake(Double, ABC):
    """
    The intake of a SIEM: :attr:`stored` is what it really stored, whatever it answered.

    Subclasses implement :attr:`secret`, :meth:`settings`, :meth:`rotate`, :meth:`limit_body` and
    :meth:`respond`, and store each event under its uid and its vendor's native id.
    """

    NAME: ClassVar[str]
    """What a sandbox calls it: its attribute there, and the name of its sink in the demo."""

    PLACE: ClassVar[int] = 100
    """Its place in the order of intakes; those of the same place are ordered by type."""

    ON_REQUEST: ClassVar[bool] = False
    """Whether a sandbox has it only if it is asked for; the demo has not."""

    SECRET_KEY: ClassVar[str] = "api_key"  # noqa: S105  # the name of a key, not its value
    """The key of a sink's settings for the credential."""

    ANSWERS_JSON: ClassVar[bool] = True
    """Whether its answers are JSON."""

    NAMES_ENCODING: ClassVar[bool] = True
    """Whether a body that is compressed is said to be so by ``Content-Encoding``."""

    ENVELOPE: ClassVar[int] = 1
    """The most bytes of a body that its sink leaves unused, for what is not an event."""

    FLAVOURS: ClassVar[tuple[str, ...]] = ()
    """The products that it can be, if it takes a *flavour*."""

    DEDUPLICATES: ClassVar[bool] = False
    """Whether an event that is sent twice is stored once, by its uid."""

    INDEXES_OLD_EVENTS: ClassVar[bool] = True
    """Whether an event can be found however long ago it happened."""

    REFUSALS: ClassVar[tuple[Refusal, ...]] = ()
    """The documented refusals that hold a sink."""

    MISBEHAVIOURS: ClassVar[Mapping[str, Misbehaviour]] = {}
    """What only this product does wrong; :mod:`auditrelay.sandbox.faults` has what any may."""

    VARIANTS: ClassVar[tuple[Variant, ...]] = ()
    """Other set-ups, which are tested like the usual one."""

    not_indexed: Stored | None = None
    """What was accepted and cannot be found, for a product that does so."""

    def __init__(self, *, clock: Callable[[], float] = time.time, seed: int = 0) -> None:
        super().__init__(clock=clock, seed=seed)
        self.stored = Stored()
        self.id_fields: dict[str, tuple[str, ...]] = {}
        """Id field of a vendor's records, for vendors whose field is not ``id``."""

    @property
    def lean(self) -> bool:
        """Whether events are only counted; for load tests."""
        return self.stored.lean

    @lean.setter
    def lean(self, lean: bool) -> None:
        self.stored.lean = lean

    @property
    @abstractmethod
    def secret(self) -> str:
        """The credential that it accepts now."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the settings of a sink that sends to this double; it must have been started."""

    @abstractmethod
    def rotate(self, secret: str) -> None:
        """Replace the credential by one made of *secret*."""

    @abstractmethod
    def limit_body(self, size: int) -> None:
        """Answer 413 to a body of more than *size* bytes."""

    @classmethod
    def keys_of(cls, secret: Any) -> dict[str, Any]:
        """Return the settings by which *secret* is the credential of a sink."""
        return {cls.SECRET_KEY: secret}

    def credentials(self) -> dict[str, Any]:
        """Return every credential that it accepts, by the key of a sink's settings."""
        return self.keys_of(self.secret)

    def fail_batches(self, action: Action, times: int | None = 1) -> None:
        """Apply *action* to the next requests that carry events."""
        self.faults.add(action, method="POST", times=times)


def available() -> dict[str, type[Intake]]:
    """Return the double of every intake, by the type of its sink: the name of its module."""
    doubles = {module.name: _double(module.name) for module in iter_modules(__path__)}
    return dict(sorted(doubles.items(), key=lambda item: (item[1].PLACE, item[0])))


def _double(name: str) -> type[Intake]:
    module = import_module(f"{__name__}.{name}")
    return next(
        thing
        for thing in vars(module).values()
        if isinstance(thing, type)
        and issubclass(thing, Intake)
        and thing.__module__ == module.__name__
    )
