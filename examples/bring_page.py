"""Put what an example of `make bring` printed into its page: python bring_page.py scvi ../build/bring/scvi.txt"""

import re
import sys
from pathlib import Path

import pages


def main(library: str, printed: Path) -> None:
    """Its headings become those of a section."""
    text = re.sub(r"^# ", "### ", printed.read_text().strip(), flags=re.M)
    pages.put(pages.DOCS / "bring" / f"{library}.md", f"make bring-{library}", text)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
