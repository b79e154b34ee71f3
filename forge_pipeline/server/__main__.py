"""``python -m forge_pipeline.server --host 127.0.0.1 --port 8000 --data-dir DIR``."""

import sys

from forge_pipeline.server.serving import main

if __name__ == "__main__":
    sys.exit(main())
