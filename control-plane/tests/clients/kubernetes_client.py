"""What programs in Python do with a Kubernetes API: lists, pages, watches, kinds that they were not generated for.

Prints `ready` when it holds a revision that is to be forgotten, and goes on when a line comes in.
"""

import sys

from kubernetes import client, dynamic, watch
from kubernetes.client.rest import ApiException

configuration = client.Configuration(host=sys.argv[1])
api_client = client.ApiClient(configuration)
core = client.CoreV1Api(api_client)

# Objects by the generated client.
core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name="citizen")))
for number in range(5):
    port = client.V1ServicePort(port=80, target_port=8080)
    service = client.V1Service(
        metadata=client.V1ObjectMeta(name=f"s-{number}", labels={"app": f"s-{number}"}),
        spec=client.V1ServiceSpec(ports=[port]),
    )
    core.create_namespaced_service("citizen", service)
names = [item.metadata.name for item in core.list_service_for_all_namespaces().items]
assert names == [f"s-{number}" for number in range(5)], names
selected = core.list_namespaced_service("citizen", label_selector="app in (s-1,s-3)", field_selector="metadata.name!=s-1")
assert [item.metadata.name for item in selected.items] == ["s-3"]

# Pages.
paged, token = [], None
while True:
    page = core.list_namespaced_service("citizen", limit=2, _continue=token)
    paged += [item.metadata.name for item in page.items]
    assert (page.metadata.remaining_item_count or 0) == 5 - len(paged), page.metadata
    token = page.metadata.var_continue
    if not token:
        break
assert paged == names, paged

# Patches, as the generated client sends them (strategic merge patch).
core.patch_namespaced_service("s-0", "citizen", {"spec": {"ports": [{"port": 81, "name": "b"}, {"port": 80, "name": "a"}]}})
ports = core.read_namespaced_service("s-0", "citizen").spec.ports
assert sorted(port.port for port in ports) == [80, 81], ports

# A refusal is a Status.
try:
    core.create_namespaced_service("citizen", client.V1Service(metadata=client.V1ObjectMeta(name="x")))
    raise AssertionError("a service without ports was taken")
except ApiException as refused:
    assert refused.status == 422 and "spec" in refused.body, refused

# A kind that the client learns of by discovery.
dynamic_client = dynamic.DynamicClient(api_client)
policies = dynamic_client.resources.get(api_version="weir.dev/v1", kind="BackendPolicy")
policies.create(
    namespace="citizen",
    body={
        "apiVersion": "weir.dev/v1",
        "kind": "BackendPolicy",
        "metadata": {"name": "p"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "s-0"}], "connectTimeout": "300ms"},
    },
)
policies.patch(
    namespace="citizen",
    name="p",
    body={"spec": {"connectTimeout": "400ms"}},
    content_type="application/merge-patch+json",
)
assert policies.get(namespace="citizen", name="p").spec.connectTimeout == "400ms"
assert [item.metadata.name for item in policies.get().items] == ["p"]

# A watch that comes too late is told so, and begins anew with a list.
old = core.list_namespaced_service("citizen").metadata.resource_version
print("ready", flush=True)
sys.stdin.readline()
try:
    for _ in watch.Watch().stream(core.list_namespaced_service, "citizen", resource_version=old, timeout_seconds=10):
        raise AssertionError("a forgotten revision was gone on from")
except ApiException as expired:
    assert expired.status == 410, expired
anew = core.list_namespaced_service("citizen").metadata.resource_version
services = dynamic_client.resources.get(api_version="v1", kind="Service")
services.delete(name="s-4", namespace="citizen")
watching = watch.Watch()
for event in watching.stream(core.list_namespaced_service, "citizen", resource_version=anew, timeout_seconds=30):
    assert (event["type"], event["object"].metadata.name) == ("DELETED", "s-4"), event
    watching.stop()

# Many at once, and a namespace with all that it holds.
services.delete(namespace="citizen", label_selector="app notin (s-0)")
assert [item.metadata.name for item in core.list_namespaced_service("citizen").items] == ["s-0"]
namespaces = dynamic_client.resources.get(api_version="v1", kind="Namespace")
assert namespaces.delete(name="citizen").status.phase == "Terminating"
print("done", flush=True)
