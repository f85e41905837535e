"""The search of the built site finds what users look for; `make docs` runs it on site/."""

import json
import sys
from pathlib import Path

INDEX = Path(__file__).parents[1] / "site" / "search" / "search_index.json"
WANTED = {
    "pretrained": "start/tour/",
    "freeze": "guides/classify/",
    "resize": "guides/classify/",
    "onnx": "guides/deploy/",
    "offline": "guides/offline/",
}
"""Word -> a page that has to be among those that hold it."""


def main() -> None:
    """End with a message if a word leads nowhere, or not to its page."""
    entries = json.loads(INDEX.read_text(encoding="utf-8"))["docs"]
    for word, page in WANTED.items():
        found = {
            entry["location"].partition("#")[0]
            for entry in entries
            if word in f"{entry['title']} {entry['text']}".lower()
        }
        if page not in found:
            sys.exit(f"a search for {word!r} does not find {page}; it finds: {', '.join(sorted(found)) or 'nothing'}")


if __name__ == "__main__":
    main()
