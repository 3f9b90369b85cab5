"""Keeps a copy of the Services of a namespace as controllers do: lists, then watches from there; begins anew where the API
has forgotten, goes on where the connection was lost. Tells of each list and event; `copy` on stdin asks what it has.
"""

import sys
import threading
import time

import urllib3
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException

configuration = client.Configuration()
configuration.host = sys.argv[1]
configuration.retries = False
core = client.CoreV1Api(client.ApiClient(configuration))
copy = {}


def say(*words):
    print(*words, flush=True)


def answer():
    for _ in sys.stdin:
        say("copy", *sorted(f"{name}={port}" for name, port in copy.items()))


threading.Thread(target=answer, daemon=True).start()
while True:
    try:
        listed = core.list_namespaced_service("citizen")
        copy = {item.metadata.name: item.spec.ports[0].port for item in listed.items}
        revision = listed.metadata.resource_version
        say("listed", *sorted(copy))
        while True:
            try:
                events = watch.Watch().stream(
                    core.list_namespaced_service, "citizen", resource_version=revision, allow_watch_bookmarks=True
                )
                for event in events:
                    revision = event["object"].metadata.resource_version
                    name = event["object"].metadata.name
                    if event["type"] == "BOOKMARK":
                        continue
                    if event["type"] == "DELETED":
                        del copy[name]
                    else:
                        copy[name] = event["object"].spec.ports[0].port
                    say(event["type"], name)
            except urllib3.exceptions.HTTPError:
                # Nobody is there, or no longer: the same again, from where it was.
                time.sleep(0.05)
    except ApiException as error:
        say("expired" if error.status == 410 else f"error {error.status}")
    except urllib3.exceptions.HTTPError:
        time.sleep(0.05)
