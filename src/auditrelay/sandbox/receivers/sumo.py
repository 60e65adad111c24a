"""
Sumo Logic's HTTP source: 200 for whatever is received; the address is the credential.

https://help.sumologic.com/docs/send-data/hosted-collectors/http-source/troubleshooting/: an ingest
budget drops what is above it, and the answer is 200 all the same.
"""

from typing import ClassVar

from auditrelay.sandbox.messages import Request, Response
from auditrelay.sandbox.receivers import Receiver
from auditrelay.sandbox.receivers.description import Item

_PATH = "/receiver/v1/http/"


class Sumo(Receiver):
    """A source; ``budget`` is how many events it still keeps, None: all."""

    NAME: ClassVar = "sumo"
    SECRET_KEY: ClassVar = "url"  # noqa: S105  # the name of a key

    budget: int | None = None

    @property
    def secret(self) -> str:
        """The address of the source."""
        return f"{self.url}{self._path}"

    @property
    def _path(self) -> str:
        return f"{_PATH}{self.description.secrets['url']}"

    def conclude(self, good: list[Item], bad: list[tuple[Item, str]]) -> Response:
        """Store what the budget allows; say nothing of the rest."""
        kept = good
        if self.budget is not None:
            kept, self.budget = good[: self.budget], max(self.budget - len(good), 0)
        self.store(kept)
        return Response(400 if bad else 200)

    def _elsewhere(self, request: Request) -> Response:
        is_source = request.path.startswith(_PATH)
        return Response(401 if is_source else 404)
