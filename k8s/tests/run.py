"""Runs the tests of this directory, and ends with one line as cargo test does."""

import sys
import unittest


def main():
    loader = unittest.defaultTestLoader
    names = sys.argv[1:]
    suite = loader.loadTestsFromNames(names) if names else loader.discover(".")
    result = unittest.TextTestRunner(verbosity=2, stream=sys.stdout).run(suite)
    # A test of many parts fails once.
    failed = len({getattr(it, "test_case", it) for it, _ in result.failures + result.errors})
    passed = result.testsRun - failed
    # A test that was left out has shown nothing.
    assert not result.skipped, result.skipped
    word = "ok" if result.wasSuccessful() and passed else "FAILED"
    print(f"test result: {word}. {passed} passed; {failed} failed")
    sys.exit(word != "ok")


if __name__ == "__main__":
    main()
