"""Walks a Weave Scope app as scripts do: topologies, then hosts, their containers and processes, then each one's details.

Usage: walk.py URL TOKEN. It prints what it has found as JSON."""
import json
import sys
import urllib.parse

import requests

base, token = sys.argv[1:]
session = requests.Session()
session.headers["Authorization"] = "Bearer " + token


def get(path, **options):
    answer = session.get(base + path, params=options, timeout=30)
    answer.raise_for_status()
    return answer.json()


def details(topology, node):
    return get("/api/topology/%s/%s" % (topology, urllib.parse.quote(node, safe="")))["node"]


found = {"topologies": {}, "hosts": {}, "parents": 0, "edges": 0}
for topology in get("/api/topology"):
    for t in [topology] + topology.get("sub_topologies", []):
        found["topologies"][t["url"]] = t["stats"]["node_count"]
        nodes = get(t["url"])["nodes"]
        if "processes" not in t["url"]:  # those come and go
            assert len(nodes) == t["stats"]["node_count"], t

assert get("/api/probes", sparse="") is True
for probe in get("/api/probes"):
    node = details("hosts", probe["hostname"] + ";<host>")
    assert node["label"] == probe["hostname"].split(".")[0], node
    inside = {}
    for group in node.get("children", []):
        inside[group["topologyId"]] = [n["id"] for n in group["nodes"]]
        for child in group["nodes"][:15]:
            again = details(group["topologyId"], child["id"])
            assert again["id"] == child["id"] and again["label"] == child["label"], (child, again)
            for parent in again.get("parents", []):
                assert details(parent["topologyId"], parent["id"])["id"] == parent["id"]
                found["parents"] += 1
    found["hosts"][probe["hostname"]] = {t: len(ids) for t, ids in inside.items()}

nodes = get("/api/topology/containers", system="all", stopped="both", pseudo="show")["nodes"]
for node in nodes.values():
    for other in node.get("adjacency", []):
        assert other in nodes, (node["id"], other)
        found["edges"] += 1

for path in ["/api/topology/nonsense", "/api/topology/hosts/nonsense"]:
    assert session.get(base + path).status_code == 404
assert session.post(base + "/api/topology/hosts").status_code == 405
assert requests.get(base + "/api/topology/hosts").status_code == 401
print(json.dumps(found))
