"""What a client can query: the identity of the cluster, and its indices."""

from typing import Any

from auditrelay.sandbox.siems.elasticsearch.cluster import Cluster
from auditrelay.sandbox.siems.elasticsearch.templates import maps_text


def banner(cluster: Cluster, uuid: str) -> dict[str, Any]:
    """Return the identity of the cluster."""
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
    """Return the creation time of each backing index of *names*."""
    return {
        backing: {"settings": {"index": {"creation_date": str(int(made * 1000))}}}
        for index in cluster.visible(names, "view_index_metadata")
        for backing, made in index.backing.items()
    }


def mappings(cluster: Cluster, names: str) -> dict[str, Any]:
    """Return the fields of each backing index of *names*."""
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
