"""Print the Nth line that stands in a code fence of README.md: 1 the main job, 2 the tests."""

import sys
from pathlib import Path


def fenced_lines(text: str) -> list[str]:
    """Return every line inside code fences, in order."""
    inside = False
    lines = []
    for line in text.splitlines():
        if line.startswith("```"):
            inside = not inside
        elif inside and line.strip():
            lines.append(line)
    return lines


if __name__ == "__main__":
    readme = Path(__file__).resolve().parent.parent / "README.md"
    print(fenced_lines(readme.read_text(encoding="utf-8"))[int(sys.argv[1]) - 1])
