"""The file formats: JSON, versioned, strictly validated.

Everything here raises one line that names the file, the JSON path and the remedy. Plans and traces
hold task ids in files and task indices in memory.
"""

from dynpartition.formats.files import check_writable, in_file, write_bytes, writing
from dynpartition.formats.graph import read_graph, write_graph
from dynpartition.formats.layout import write_json
from dynpartition.formats.plan import read_plan, write_plan
from dynpartition.formats.profile import parse_profile, profile_bytes, read_profile, write_profile
from dynpartition.formats.runs import RecordedRun, Runs, read_runs, write_runs
from dynpartition.formats.shipped import find_profile, load_shipped, shipped_names
from dynpartition.formats.trace import read_trace, write_trace

__all__ = [
    "RecordedRun",
    "Runs",
    "check_writable",
    "find_profile",
    "in_file",
    "load_shipped",
    "parse_profile",
    "profile_bytes",
    "read_graph",
    "read_plan",
    "read_profile",
    "read_runs",
    "read_trace",
    "shipped_names",
    "write_bytes",
    "write_graph",
    "write_json",
    "write_plan",
    "write_profile",
    "write_runs",
    "write_trace",
    "writing",
]
