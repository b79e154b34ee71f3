"""A bundle as one ZIP file, the same bytes whenever and wherever it is made."""

import zipfile
from pathlib import Path

from forge_pipeline.integrity import Digest, Manifest
from forge_pipeline.integrity.atomic import write_file

_FIXED_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest a ZIP can say
_REGULAR_FILE = 0o100644 << 16
_UNIX = 3


def write_archive(bundle: Path, destination: Path) -> Digest:
    """Write the files of the directory `bundle` as a ZIP to `destination`; returns the ZIP's digest.

    Files lie under ``annex_iv/``, sorted, stored without compression (whose output
    differs between zlib versions), dated 1980-01-01, with mode 0644.

    Raises:
        NotADirectoryError: `bundle` is not a directory.
        IntegrityError: It holds a link or a special file.
    """
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for entry in Manifest.of_directory(bundle).entries:
            info = zipfile.ZipInfo(f"annex_iv/{entry.path}", _FIXED_DATE)
            info.external_attr, info.create_system = _REGULAR_FILE, _UNIX
            archive.writestr(info, (bundle / entry.path).read_bytes())
    data = buffer.getvalue()
    write_file(destination, data)
    return Digest.of(data)
