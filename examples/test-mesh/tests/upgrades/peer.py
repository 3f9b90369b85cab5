"""WebSockets by others: aiohttp as the app and as a client, websocket-client as another.

    peer.py serve               an app: says "port N", then serves until it is killed
    peer.py call PORT HOST [as-proxy]
                                clients of HOST through the proxy at PORT, also as through an HTTP proxy; fails where
                                something is not as it should be
"""

import asyncio
import socket
import sys

import aiohttp
import websocket
from aiohttp import WSMsgType, web

LARGE = bytes(range(256)) * (8 * 1024 * 1024 // 256)


async def echo(request):
    answer = web.WebSocketResponse(max_msg_size=0, protocols=("chat",))
    await answer.prepare(request)
    async for message in answer:
        if message.type == WSMsgType.TEXT:
            await answer.send_str(message.data)
        elif message.type == WSMsgType.BINARY:
            await answer.send_bytes(message.data)
    return answer


async def closes(request):
    answer = web.WebSocketResponse()
    await answer.prepare(request)
    await answer.close(code=4001, message=b"enough")
    return answer


async def dies(request):
    answer = web.WebSocketResponse()
    await answer.prepare(request)
    await answer.receive()
    connection = request.transport.get_extra_info("socket")
    linger = (1).to_bytes(4, sys.byteorder) + (0).to_bytes(4, sys.byteorder)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    request.transport.abort()
    return answer


async def refuses(_request):
    return web.Response(status=403, text="not you")


async def serve():
    app = web.Application()
    app.add_routes([
        web.get("/echo", echo),
        web.get("/closes", closes),
        web.get("/dies", dies),
        web.get("/refuses", refuses),
    ])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print("port", site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


def by_websocket_client(port, host, resets):
    def connect(path, **options):
        stream = socket.create_connection(("127.0.0.1", port), timeout=60)
        return websocket.create_connection(f"ws://{host}{path}", socket=stream, **options)

    one = connect("/echo", subprotocols=["chat"])
    assert one.getsubprotocol() == "chat", one.getsubprotocol()
    one.send("gesundheit")
    assert one.recv() == "gesundheit"
    one.send_binary(LARGE)
    assert one.recv() == LARGE
    # Three fragments, with a ping between them (RFC 6455 section 5.4).
    frame = websocket.ABNF
    one.send_frame(frame.create_frame("one ", frame.OPCODE_TEXT, fin=0))
    one.send_frame(frame.create_frame("two ", frame.OPCODE_CONT, fin=0))
    one.ping("still there?")
    one.send_frame(frame.create_frame("three", frame.OPCODE_CONT, fin=1))
    assert one.recv_data(control_frame=True) == (frame.OPCODE_PONG, b"still there?")
    assert one.recv() == "one two three"
    one.send_close(1000, b"done")
    opcode, data = one.recv_data(control_frame=True)
    assert (opcode, data[:2]) == (frame.OPCODE_CLOSE, (1000).to_bytes(2)), (opcode, data)
    one.shutdown()

    two = connect("/closes")
    opcode, data = two.recv_data(control_frame=True)
    assert (opcode, data) == (frame.OPCODE_CLOSE, (4001).to_bytes(2) + b"enough"), (opcode, data)

    three = connect("/dies")
    three.send("x")
    try:
        got = three.sock.recv(1)
    except ConnectionResetError:
        pass
    else:
        # Envoy ends the connection then as it always does.
        assert got == b"" and not resets, f"an app that died looks like one that ended: {got!r}"

    try:
        connect("/refuses")
    except websocket.WebSocketBadStatusException as refused:
        assert refused.status_code == 403, refused
    else:
        raise AssertionError("it was refused")



def by_connect(port, host):
    # This client asks a proxy for CONNECT, whatever is within.
    four = websocket.create_connection(
        f"ws://{host}:80/echo", http_proxy_host="127.0.0.1", http_proxy_port=port, proxy_type="http", timeout=60
    )
    four.send("within a CONNECT")
    assert four.recv() == "within a CONNECT"
    four.close()


async def by_absolute_form(port, host):
    # This client asks a proxy by the absolute form.
    async with aiohttp.ClientSession() as session:
        proxy = f"http://127.0.0.1:{port}"
        async with session.ws_connect(f"http://{host}/echo", proxy=proxy, max_msg_size=0) as one:
            await one.send_str("absolute")
            assert await one.receive_str() == "absolute"
            await one.send_bytes(LARGE)
            assert await one.receive_bytes() == LARGE
            await one.ping()
            await one.close()
            assert one.close_code == 1000, one.close_code


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve())
    else:
        as_proxy = sys.argv[4:] == ["as-proxy"]
        by_websocket_client(int(sys.argv[2]), sys.argv[3], resets=as_proxy)
        if as_proxy:
            by_connect(int(sys.argv[2]), sys.argv[3])
            asyncio.run(by_absolute_form(int(sys.argv[2]), sys.argv[3]))
        print("all well", flush=True)
