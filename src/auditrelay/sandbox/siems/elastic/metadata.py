"""What a client can look at: who the cluster is, and what its indices are like."""

from typing import Any

from auditrelay.sandbox.siems.elastic.cluster import Cluster
from auditrelay.sandbox.siems.elastic.templates import maps_text


def banner(cluster: Cluster, uuid: str) -> dict[str, Any]:
    """Return who the cluster is."""
    if cluster.flavour == "opensearch":
        version = {"distribution": "opensearch", "number": cluster.switches.version or "3.2.0"}
    else:
        version = {"number": cluster.switches.version or "9.1.4", "build_flavor": "default"}
    return {
        "name": "sandbox",
        "cluster_name": "sandbox",
        "cluster_uuid": uuid,
        "version": version,
        "tagline": "You Know, for Search",
    }


def data_streams(cluster: Cluster, names: str) -> dict[str, Any]:
    """Return the data streams among *names*."""
    streams = [
        {
            "name": index.name,
            "timestamp_field": {"name": "@timestamp"},
            "generation": index.generation,
            "status": "GREEN",
            "template": "logs",
        }
        for index in cluster.visible(names, "view_index_metadata")
        if index.stream
    ]
    return {"data_streams": streams}


def creation_dates(cluster: Cluster, names: str) -> dict[str, Any]:
    """Return when each of the indices behind *names* was made."""
    return {
        backing: {"settings": {"index": {"creation_date": str(int(made * 1000))}}}
        for index in cluster.visible(names, "view_index_metadata")
        for backing, made in index.backing.items()
    }


def mappings(cluster: Cluster, names: str) -> dict[str, Any]:
    """Return the fields of each of the indices behind *names*."""
    return {
        backing: {
            "mappings": {
                "properties": index.mapping.properties(
                    "keyword" if index.stream or maps_text(cluster, index.name) else "text"
                )
            }
        }
        for index in cluster.visible(names, "view_index_metadata")
        for backing in index.backing
    }
