"""`python -m sample_dicom [--to DIR]`: write every study, the README and SHA256SUMS."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path

from sample_dicom.encoders import compressed_files
from sample_dicom.instances import File, ordinary_files
from sample_dicom.readme import readme
from sample_dicom.trouble import odd_files


def all_files() -> Iterator[File]:
    """Every file of this folder that is not source code."""
    digests: dict[str, str] = {}
    for files in (ordinary_files, compressed_files, odd_files):
        for path, content in files():
            digests[path] = hashlib.sha256(content).hexdigest()
            yield path, content
    yield "README.md", readme(digests).encode()
    sums = (f"{digest}  {path}\n" for path, digest in sorted(digests.items()))
    yield "SHA256SUMS", "".join(sums).encode()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sample_dicom", description=__doc__)
    parser.add_argument("--to", type=Path, default=Path(__file__).parent, metavar="DIR")
    folder: Path = parser.parse_args().to
    written_bytes = 0
    for path, content in all_files():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        written_bytes += (folder / path).write_bytes(content)
    print(f"{written_bytes / 1e6:.1f} MB written to {folder}")


if __name__ == "__main__":
    main()
