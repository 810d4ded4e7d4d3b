"""Both engines of this host keep the contract."""

from pymar.engines.processes import ProcessesEngine
from pymar.engines.serial import SerialEngine
from pymar.testing import EngineContract, IsolatedContract


class TestSerial(EngineContract):
    def engine(self):
        return SerialEngine()


class TestProcesses(IsolatedContract):
    def engine(self):
        return ProcessesEngine("2")


class TestOneProcess(IsolatedContract):
    def engine(self):
        return ProcessesEngine("1")
