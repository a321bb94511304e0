"""Make .typing/dynpartition, a tree of links that type checkers and editors can follow."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TREE = ROOT / ".typing" / "dynpartition"
FOLDERS = ("models", "sim", "hardware", "agent", "calibration", "interop", "serving")

TREE.mkdir(parents=True, exist_ok=True)
core_entries = [path for path in (ROOT / "core").iterdir() if path.name != "__pycache__"]
for target in core_entries + [ROOT / name for name in FOLDERS]:
    link = TREE / target.name
    if not link.exists():
        link.symlink_to(target, target_is_directory=target.is_dir())
