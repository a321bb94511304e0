"""Graphs from other tools and for them, and the environment for their agents.

Every module needs the library that it is named after, which an extra of this package brings along;
import them by module. Only the command line imports anything here.
"""

if __name__ != "dynpartition.interop":
    raise ImportError("import dynpartition.interop, not interop")
