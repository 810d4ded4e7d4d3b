"""A TCP proxy before the broker that knows AMQP's frames: it stalls, resets, and cuts exactly where a test wants."""

import socket
import struct
import threading

#: Class and method of AMQP 0-9-1's frames (https://www.rabbitmq.com/resources/specs/amqp0-9-1.xml).
DELIVER, PUBLISH, ACK, CANCEL = (60, 60), (60, 40), (60, 80), (60, 30)
#: Of the opening of a connection: what the broker sends first, second and last.
START, TUNE, OPEN_OK = (10, 10), (10, 30), (10, 41)
#: Towards the broker, and back.
UP, DOWN = "up", "down"


class Proxy:
    """Connections to `port` go to the broker's `target`."""

    def __init__(self, target):
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.flowing = threading.Event()
        self.flowing.set()
        self.pairs = []
        self.lock = threading.Lock()
        #: (direction, (class, method), how many of them still pass, True if the last passes too), to cut once.
        self.plan = None
        self.cuts = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            pair = client, server
            with self.lock:
                self.pairs.append(pair)
            for source, sink, direction in ((client, server, UP), (server, client, DOWN)):
                threading.Thread(target=self.pump, args=(source, sink, direction), daemon=True).start()

    def pump(self, source, sink, direction):
        try:
            if direction == UP:
                sink.sendall(exactly(source, 8))  # the protocol header
            while True:
                head = exactly(source, 7)
                kind, _, size = struct.unpack(">BHI", head)
                rest = exactly(source, size + 1)
                method = struct.unpack(">HH", rest[:4]) if kind == 1 else None
                self.flowing.wait()
                if self.is_cut(direction, method):
                    if self.passes:
                        sink.sendall(head + rest)
                    self.reset()
                    return
                sink.sendall(head + rest)
        except OSError:
            for end in (source, sink):
                abort(end)

    def is_cut(self, direction, method):
        with self.lock:
            if self.plan is None or method is None or self.plan[:2] != (direction, method):
                return False
            if self.plan[2]:
                self.plan = *self.plan[:2], self.plan[2] - 1, self.plan[3]
                return False
            self.passes = self.plan[3]
            self.plan = None
            self.cuts += 1
            return True

    def cut_at(self, direction, method, after=0, passes=False):
        """Cut all connections once `after` such frames have passed: before the next, or behind it if it `passes`."""
        with self.lock:
            self.plan = direction, method, after, passes

    def reset(self):
        """Reset every connection."""
        with self.lock:
            pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for end in pair:
                abort(end)

    def stop(self):
        self.listener.close()
        self.flowing.set()
        self.reset()


def exactly(source, size):
    data = b""
    while len(data) < size:
        piece = source.recv(size - len(data))
        if not piece:
            raise OSError("closed")
        data += piece
    return data


def abort(end):
    """Close at once: the other side sees a reset."""
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is closed already, which is what was wanted
    end.close()
