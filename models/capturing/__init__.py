"""Capture of ordinary PyTorch modules: their cell calls as tasks, what lies between as glue.

Axes: k tasks of a launch.
"""

if __name__ != "dynpartition.models.capturing":
    raise ImportError("import dynpartition.models.capturing, not capturing")
