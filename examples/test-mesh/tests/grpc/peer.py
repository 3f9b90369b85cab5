"""A gRPC server, or a gRPC client, told what to do line by line. Messages are bytes: no generated code is needed.

    peer.py serve NAME        prints its port, serves until its stdin ends
    peer.py call              reads one JSON object a line, makes that call, prints what came of it as a line of JSON
    peer.py call xds          the same, with the credentials that xDS says, and in cleartext where it says none
"""

import json
import sys
import threading
from concurrent import futures

import grpc
import grpc.experimental


def say(name):
    def unary(request, context):
        context.send_initial_metadata((("served-by", name),))
        return f"{name}:{request.decode()}".encode()

    return grpc.unary_unary_rpc_method_handler(unary)


def fail(request, context):
    """Ends with the status that the request names."""
    code = getattr(grpc.StatusCode, request.decode())
    context.abort(code, f"asked for {request.decode()}")


def who(request, context):
    """Whom the sidecar says that it is."""
    metadata = dict(context.invocation_metadata())
    return metadata.get("x-forwarded-client-cert", "nobody").encode()


def wait(request, context):
    """Answers only when the caller has gone."""
    gone = threading.Event()
    context.add_callback(gone.set)
    gone.wait()
    return b""


def chat(name):
    def stream(requests, context):
        for request in requests:
            yield f"{name}:{request.decode()}".encode()

    return grpc.stream_stream_rpc_method_handler(stream)


def flaky(name):
    """Of each key, which is the request, the first call fails."""
    seen = set()

    def unary(request, context):
        if request in seen:
            return f"{name}:{request.decode()}".encode()
        seen.add(request)
        context.abort(grpc.StatusCode.UNAVAILABLE, "the first one")

    return grpc.unary_unary_rpc_method_handler(unary)


class Anything(grpc.GenericRpcHandler):
    """`/any/Other` and every other path are answered as `Say` is, with the path."""

    def __init__(self, name):
        self.name = name

    def service(self, details):
        path = details.method

        def unary(request, context):
            return f"{self.name}{path}".encode()

        return grpc.unary_unary_rpc_method_handler(unary)


def serve(name):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    handlers = {
        "Say": say(name),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Who": grpc.unary_unary_rpc_method_handler(who),
        "Wait": grpc.unary_unary_rpc_method_handler(wait),
        "Chat": chat(name),
        "Flaky": flaky(name),
    }
    echo = grpc.method_handlers_generic_handler("echo.Echo", handlers)
    server.add_generic_rpc_handlers((echo, Anything(name)))
    print("port", server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(0)


def channel(target, options):
    if sys.argv[2:] == ["xds"]:
        cleartext = grpc.experimental.insecure_channel_credentials()
        return grpc.secure_channel(target, grpc.xds_channel_credentials(cleartext), options=options)
    return grpc.insecure_channel(target, options=options)


def call(channels, asked):
    target, options = asked["target"], asked.get("options", {})
    key = (target, tuple(sorted(options.items())))
    if key not in channels:
        channels[key] = channel(target, list(options.items()))
    more = {
        "timeout": asked.get("timeout", 20),
        "wait_for_ready": asked.get("wait_for_ready", False),
        "metadata": list(asked.get("metadata", {}).items()),
    }
    try:
        if "messages" in asked:
            stream = channels[key].stream_stream(asked["method"])
            answers = stream((message.encode() for message in asked["messages"]), **more)
            return {"code": "OK", "messages": [answer.decode() for answer in answers]}
        answer = channels[key].unary_unary(asked["method"])(asked.get("message", "").encode(), **more)
        return {"code": "OK", "message": answer.decode()}
    except grpc.RpcError as error:
        return {"code": error.code().name, "details": error.details()}


def main():
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
        return
    channels = {}
    for line in sys.stdin:
        print(json.dumps(call(channels, json.loads(line))), flush=True)


main()
