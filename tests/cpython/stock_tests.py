"""The interpreter's own pool tests, with our pool in the place of `multiprocessing.Pool`. Run as a script, by method."""

import importlib
import multiprocessing
import multiprocessing.pool
import sys
import unittest
import unittest.mock

import arrowpool

stock = importlib.import_module("test._test_multiprocessing")
stock.ProcessesMixin.Pool = staticmethod(arrowpool.Pool)

for _name in [name for name in dir(stock) if name.startswith("_TestPool")]:
    _stock = getattr(stock, _name)
    if "processes" in getattr(_stock, "ALLOWED_TYPES", ("processes",)):
        # Named and importable, since workers find its methods by name.
        globals()["Our" + _name[1:]] = type(
            "Our" + _name[1:], (_stock, stock.ProcessesMixin, unittest.TestCase), {"__module__": __name__}
        )
        globals()["Our" + _name[1:]].__qualname__ = "Our" + _name[1:]


class OurTestPoolNotLeakOnFailure(stock.TestPoolNotLeakOnFailure):
    def setUp(self):
        patched = unittest.mock.patch.object(multiprocessing.pool, "Pool", arrowpool.Pool)
        patched.start()
        self.addCleanup(patched.stop)


if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv.pop(1), force=True)
    unittest.main(module="tests.cpython.stock_tests")
