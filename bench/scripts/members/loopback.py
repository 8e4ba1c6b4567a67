"""`unshare -n python loopback.py COMMAND…`: turn the loopback interface of a new network namespace on, and run it."""

import fcntl
import os
import socket
import struct
import sys

SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 1, 0x40

if [name for _, name in socket.if_nameindex() if name != "lo"]:
    sys.exit("there are other interfaces than loopback: this is no network namespace of its own")
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP | IFF_RUNNING))
os.execvp(sys.argv[1], sys.argv[1:])
