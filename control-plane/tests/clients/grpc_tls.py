"""gRPC's C core by TLS, with a certificate of ours: renews that certificate by it, and writes the answer's parts.

Arguments: HOST:PORT, a folder with key.pem, cert.pem, ca.pem and csr.pem, the server's DNS name.
"""

import sys
from pathlib import Path

import grpc


def varint(number):
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def fields(message):
    """The texts of field 1, of a message that has no others."""
    while message:
        assert message[0] == 0x0A, message[0]
        length, place, shift = 0, 1, 0
        while True:
            byte = message[place]
            length |= (byte & 127) << shift
            place, shift = place + 1, shift + 7
            if byte < 128:
                break
        yield message[place : place + length].decode()
        message = message[place + length :]


def main():
    address, folder, server = sys.argv[1:]

    def read(name):
        return (Path(folder) / name).read_bytes()

    credentials = grpc.ssl_channel_credentials(read("ca.pem"), read("key.pem"), read("cert.pem"))
    # gRPC knows servers by DNS names alone, and the address is none.
    options = [("grpc.ssl_target_name_override", server)]
    csr = read("csr.pem")
    with grpc.secure_channel(address, credentials, options) as channel:
        create = channel.unary_unary("/istio.v1.auth.IstioCertificateService/CreateCertificate")
        answer = create(b"\x0a" + varint(len(csr)) + csr, timeout=60)
    for certificate in fields(answer):
        print(certificate.splitlines()[0])


main()
