"""The set-up of a cluster, and its indices and data streams."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from auditrelay.sandbox.siems.elasticsearch.mapping import Mapping
from auditrelay.sandbox.siems.elasticsearch.messages import Refused

Flavour = Literal["elasticsearch", "opensearch"]


@dataclass(slots=True)
class Switches:
    """
    The set-up of this cluster.

    *streams* are the name patterns that have a data stream template. Without *auto_create* an index
    must exist. With *failure_store* (Elasticsearch) documents that do not map go to the stream's
    failure store, with 201. *missing_privileges* are refused: as a 403 item for ``create_doc`` and
    ``index``, as a 403 for ``read`` and ``view_index_metadata``, and in the answer of
    ``_has_privileges``. *flattened* fields accept objects of any content. *pipelines* are those
    that exist, of which those of *dropping* drop every document, and those of *rerouting* move it
    to another index; *default_pipeline* is that of every index. *unsearchable* are backing indices
    whose shards fail in a search. More than *shard_limit* indices are refused.
    """

    streams: tuple[str, ...] = ("logs-*-*",)
    auto_create: bool = True
    failure_store: bool = False
    max_content_length: int = 100 * 1024 * 1024
    total_fields: int = 1000
    missing_privileges: frozenset[str] = frozenset()
    flattened: tuple[str, ...] = ("*.audit.metadata", "auditrelay.changes", "auditrelay.unmapped")
    pipelines: frozenset[str] = frozenset()
    dropping: frozenset[str] = frozenset()
    rerouting: dict[str, str] = field(default_factory=dict)
    default_pipeline: str = "_none"
    shard_limit: int = 1000
    version: str = ""
    unsearchable: frozenset[str] = frozenset()


@dataclass(slots=True)
class Index:
    """
    An index or a data stream: its documents and, for the write index only, the ids in use.

    *documents* are ``(backing index, _id, source)`` in order of arrival, *backing* the name of
    each backing index and when it was created (epoch seconds), the write index last.
    """

    name: str
    stream: bool
    mapping: Mapping
    backing: dict[str, float]
    ids: set[str] = field(default_factory=set)
    documents: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    @classmethod
    def create(cls, name: str, mapping: Mapping, now: float, *, stream: bool) -> "Index":
        """Return a new, empty index or data stream."""
        made = cls(name, stream, mapping, {} if stream else {name: now})
        if stream:
            made.roll_over(now)
        return made

    @property
    def generation(self) -> int:
        """The number of backing indices so far."""
        return len(self.backing)

    @property
    def write_index(self) -> str:
        """The name of the backing index that new documents go to."""
        return next(reversed(self.backing))

    def roll_over(self, now: float) -> None:
        """Create a new write index, which has none of the ids of the others."""
        date = time.strftime("%Y.%m.%d", time.gmtime(now))
        self.backing[f".ds-{self.name}-{date}-{len(self.backing) + 1:06d}"] = now
        self.ids = set()


@dataclass(slots=True)
class Cluster:
    """
    The state of one cluster, shared by all parts of the double.

    *indices* are by name, *templates* by kind and name: ``_index_template/logs``.
    """

    flavour: Flavour
    switches: Switches
    clock: Callable[[], float]
    username: str
    indices: dict[str, Index] = field(default_factory=dict)
    templates: dict[str, Any] = field(default_factory=dict)

    def make(self, name: str, *, stream: bool) -> Index:
        """Create an empty index or data stream. Raises Refused at the shard limit."""
        open_shards = sum(index.generation for index in self.indices.values())
        if open_shards >= self.switches.shard_limit:
            reason = (
                "Validation Failed: 1: this action would add [2] shards, but this cluster "
                f"currently has [{open_shards}]/[{self.switches.shard_limit}] maximum normal "
                "shards open;"
            )
            raise Refused(400, "validation_exception", reason)
        constant: dict[str, str] = {}
        parts = name.split("-", 2)
        if stream and len(parts) == 3:
            names = ("data_stream.type", "data_stream.dataset", "data_stream.namespace")
            constant = dict(zip(names, parts, strict=True))
        mapping = Mapping(constant, self.switches.flattened, self.switches.total_fields)
        self.indices[name] = Index.create(name, mapping, self.clock(), stream=stream)
        return self.indices[name]

    def rollover(self, name: str) -> None:
        """Give the data stream *name* a new write index, which has none of the old ids."""
        index = self.indices[name]
        if not index.stream:
            raise ValueError(f"{name} is not a data stream")
        index.roll_over(self.clock())

    def find(self, names: str) -> list[Index]:
        """Return the indices that match *names*, patterns separated by commas. Raises Refused."""
        found: list[Index] = []
        for name in names.split(","):
            matching = [index for key, index in self.indices.items() if fnmatchcase(key, name)]
            if not matching and "*" not in name and name != "_all":
                raise Refused(404, "index_not_found_exception", f"no such index [{name}]")
            found += matching
        return found

    def visible(self, names: str, privilege: str) -> list[Index]:
        """
        Return the indices that match *names*, for a user who needs the *privilege*.

        Without it a pattern matches nothing, and a plain name is refused; OpenSearch refuses both.
        """
        if privilege in self.switches.missing_privileges:
            if "*" in names and self.flavour == "elasticsearch":
                return []
            reason = f"action is unauthorized for user [{self.username}] on indices [{names}]"
            raise Refused(403, "security_exception", reason)
        return self.find(names)
