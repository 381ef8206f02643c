# SPDX-License-Identifier: Apache-2.0
"""A simulated Feetech bus: six STS3215 servos that answer the real protocol on a pseudo-terminal.

A real servo answers within a millisecond, so the SDK gives up after some 50; a thread of a busy machine can be later.
`keep_time` lets the bus say when nothing more will come: an answer is missed for good or never, at any load.
"""

import os
import pty
import select
import threading
import tty
from typing import Any

import pytest

PING, READ, WRITE, SYNC_READ, SYNC_WRITE = 0x01, 0x02, 0x03, 0x82, 0x83
MODEL, HOMING, MIN, MAX, TORQUE, GOAL, LOCK, PRESENT = 3, 31, 9, 11, 40, 42, 55, 56
TORQUE_LIMIT, LOAD, TEMPERATURE, CURRENT = 48, 60, 63, 69
STS3215 = 777
HEADER = b"\xff\xff"


class Servo:
    """A register file; the present position goes half of the way to the goal at each reading, with torque on.

    Writing to a register in `fixed` is acknowledged and changes nothing.
    """

    def __init__(self, *, position: int, low: int, high: int, homing: int = 0) -> None:
        self.registers = bytearray(256)
        self.fixed: frozenset[int] = frozenset()
        self.put(MODEL, STS3215)
        self.registers[0:2] = b"\x03\x0a"
        self.put(HOMING, homing)
        self.put(MIN, low)
        self.put(MAX, high)
        self.put(PRESENT, position)
        self.put(GOAL, 2048)

    def get(self, address: int) -> int:
        return int.from_bytes(self.registers[address : address + 2], "little")

    def put(self, address: int, value: int) -> None:
        self.registers[address : address + 2] = value.to_bytes(2, "little")

    def read(self, address: int, length: int) -> bytes:
        if address == PRESENT and self.registers[TORQUE]:
            here, goal = self.get(PRESENT), self.get(GOAL)
            self.put(PRESENT, goal if abs(goal - here) < 2 else (here + goal) // 2)
        return bytes(self.registers[address : address + length])


class FeetechBus:
    """The bus; `port` is its device. `silent`: nobody answers. `writes` lists (register, id, value).

    Bytes are counted: `_asked` by the driver and `_worked` off here, `_said` here and `_heard` by the driver.
    """

    def __init__(self, servos: dict[int, Servo]) -> None:
        self.servos = servos
        self.silent = False
        self.writes: list[tuple[int, int, int]] = []
        self._master, slave = pty.openpty()
        tty.setraw(slave)
        self._slave = slave
        self.port = os.ttyname(slave)
        self._ending = threading.Event()
        self._buffer = b""
        self._asked = self._worked = self._said = self._heard = 0
        self._progress = threading.Condition()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def keep_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Puts this bus's word in place of the SDK's clock."""
        from scservo_sdk import PortHandler  # noqa: PLC0415 - an optional package

        write, read, set_up = PortHandler.writePort, PortHandler.readPort, PortHandler.setupPort

        def count_written(port: Any, packet: Any) -> Any:
            self._asked += len(packet)
            return write(port, packet)

        def count_read(port: Any, length: int) -> Any:
            data = read(port, length)
            self._heard += len(data)
            return data

        def open_empty(port: Any, baud: int) -> Any:
            while not self._has_worked_off():
                pass
            opened = set_up(port, baud)  # throws away what nobody has read
            self._heard = self._said
            return opened

        monkeypatch.setattr(PortHandler, "writePort", count_written)
        monkeypatch.setattr(PortHandler, "readPort", count_read)
        monkeypatch.setattr(PortHandler, "setupPort", open_empty)
        monkeypatch.setattr(
            PortHandler, "isPacketTimeout", lambda _port: self._has_worked_off() and self._heard >= self._said
        )

    def _has_worked_off(self) -> bool:
        """Whether all that was asked has been answered, or never will be; waits a little for it."""
        with self._progress:
            self._progress.wait_for(lambda: self._worked >= self._asked, timeout=0.05)
        return self._worked >= self._asked or not self._thread.is_alive()

    def close(self) -> None:
        self._ending.set()
        self._thread.join(2.0)
        os.close(self._master)
        os.close(self._slave)

    def _serve(self) -> None:
        while not self._ending.is_set():
            if select.select([self._master], [], [], 0.05)[0]:
                data = os.read(self._master, 4096)
                self._buffer += data
                self._answer_all()
                with self._progress:
                    self._worked += len(data)
                    self._progress.notify_all()

    def _answer_all(self) -> None:
        while (start := self._buffer.find(HEADER)) >= 0 and len(self._buffer) >= start + 4:
            end = start + 4 + self._buffer[start + 3]
            if len(self._buffer) < end:
                return
            packet, self._buffer = self._buffer[start:end], self._buffer[end:]
            if not self.silent:
                self._answer(packet[2], packet[4], packet[5:-1])

    def _answer(self, id_: int, instruction: int, data: bytes) -> None:
        if instruction == SYNC_READ:
            for one in data[2:]:
                self._reply(one, self.servos[one].read(data[0], data[1]))
        elif instruction == SYNC_WRITE:
            address, length = data[0], data[1]
            for i in range(2, len(data), length + 1):
                self._write(data[i], address, data[i + 1 : i + 1 + length])
        elif id_ in self.servos and instruction == PING:
            self._reply(id_, b"")
        elif id_ in self.servos and instruction == READ:
            self._reply(id_, self.servos[id_].read(data[0], data[1]))
        elif id_ in self.servos and instruction == WRITE:
            self._write(id_, data[0], data[1:])
            self._reply(id_, b"")

    def _write(self, id_: int, address: int, values: bytes) -> None:
        if address not in self.servos[id_].fixed:
            self.servos[id_].registers[address : address + len(values)] = values
        self.writes.append((address, id_, int.from_bytes(values, "little")))

    def _reply(self, id_: int, data: bytes) -> None:
        body = bytes([id_, len(data) + 2, 0]) + data
        packet = HEADER + body + bytes([~sum(body) & 0xFF])
        self._said += len(packet)
        os.write(self._master, packet)
