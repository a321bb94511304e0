"""The command line: one module per verb.

To add a verb `foo`, write `cli/foo.py` with a dataclass `Foo(Verb)` and add a line to
`registry.VERBS`. Verb modules import heavy things inside `run`, so that `--help` stays quick.
"""
